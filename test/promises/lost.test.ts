import { once } from 'node:events'
import { expect, test } from 'vitest'
import { databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { eventsOf, storyOf, tableOf } from '../support/event-log.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import { until } from '../support/until.js'
import { firstTurnAfter, startWorker } from '../support/worker.js'

const schema = await freshSchema()
const TTL_MS = 1_500

test('promise 8: a lease ends before anybody can see its member gone because of silence', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  const timing = { ttlMs: 2 * TTL_MS, heartbeatMs: 300, crashGraceMs: false } as const
  await joined(openCluster({ schema, name, ...timing }))
  // Cut off at different moments between two heartbeats.
  const ends = await Promise.all(
    Array.from({ length: 6 }, async (_, n) => {
      // One client runs one query at a time.
      const admin = await openAdmin()
      const proxy = await openProxy()
      const cluster = openCluster({ schema, name, connection: proxy.throughIt, ...timing })
      const membership = await joined(cluster, { onLost: 'stay-out' })
      const lease = await membership.register()
      const { rows } = await admin.query<{ at: string }>(
        `select heartbeat_at::text as at from ${schema}.members where id = $1`,
        [membership.id],
      )
      await until(
        async () => {
          const { rowCount } = await admin.query(
            `select from ${schema}.members where id = $1 and heartbeat_at > $2
             and clock_timestamp() > heartbeat_at + $3 * interval '40 ms'`,
            [membership.id, rows[0]?.at, n],
          )
          return rowCount === 1
        },
        { message: 'the moment to cut' },
      )
      // From now on: on a busy machine the first lease ends before the last one is cut off.
      const ended = once(lease.signal, 'abort')
      if (n % 2 === 0) proxy.freeze()
      else await proxy.cut()
      await ended
      // By the server's clock, which was earlier still when the lease ended.
      const { rows: ends } = await admin.query<{ at: string }>(
        'select (extract(epoch from clock_timestamp()) * 1000000)::bigint::text as at',
      )
      return { id: membership.id, at: BigInt(ends[0]?.at ?? 0), reason: lease.signal.reason as unknown }
    }),
  )
  await until(async () => (await tableOf(admin, schema, name)).members.length === 1, {
    message: 'all expire',
  })
  const events = await eventsOf(admin, schema, name)
  for (const { id, at, reason } of ends) {
    expect(reason).toMatchObject({ code: 'LOST', reason: 'unreachable' })
    const gone = events.find(({ member, kind }) => member === id && kind === 'left')
    expect(gone?.reason).toBe('expired')
    expect(
      Number((gone?.at ?? 0n) - at),
      'microseconds from the end of the lease to the removal',
    ).toBeGreaterThan(0)
  }
})

test('promises 6 and 8: a process that is stopped expires; in its first turn afterwards it knows, and it comes back with a higher token', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  const observer = openCluster({ schema, name, ttlMs: TTL_MS })
  await joined(observer)
  const worker = await startWorker()
  await worker.ask('open', { connection: databaseUrl(), schema, name, ttlMs: TTL_MS })
  const { id, token } = await worker.ask('join', { data: 'frozen' })
  await until(() => observer.snapshot?.get(id) !== undefined, { message: 'the observer sees it' })

  worker.signal('SIGSTOP')
  const stoppedMs = performance.now()
  await until(() => observer.snapshot?.get(id) === undefined, { message: 'the observer sees it gone' })
  expect(performance.now() - stoppedMs).toBeLessThan(TTL_MS + 2_000)
  worker.signal('SIGCONT')
  expect(await firstTurnAfter(worker, 0.9 * TTL_MS)).toEqual([false])
  expect(worker.toldOf('lost')).toEqual([{ kind: 'lost', reason: 'unreachable' }])
  expect(await worker.ask('nextLease', 0)).toBeGreaterThan(token)
  await until(() => (observer.snapshot?.get(id)?.token ?? 0) > token, {
    message: 'the observer sees it again',
  })
  expect(observer.snapshot?.get(id)?.data).toBe('frozen')
  const mine = (await eventsOf(admin, schema, name)).filter(({ member }) => member === id)
  expect(mine.map(({ reason }) => reason)).toEqual(['registered', 'expired', 'registered'])
})

test('promises 6 and 8: a process that is killed expires within its ttl and two seconds', async () => {
  const name = uniqueName()
  const observer = openCluster({ schema, name, ttlMs: TTL_MS })
  await joined(observer)
  const worker = await startWorker()
  await worker.ask('open', { connection: databaseUrl(), schema, name, ttlMs: TTL_MS })
  const { id } = await worker.ask('join', {})
  await until(() => observer.snapshot?.get(id) !== undefined, { message: 'the observer sees it' })
  await worker.kill()
  const killedMs = performance.now()
  await until(() => observer.snapshot?.get(id) === undefined, { message: 'the observer sees it gone' })
  expect(performance.now() - killedMs).toBeLessThan(TTL_MS + 2_000)
})

test('promise 8: a process whose event loop was blocked past the ttl knows at once, and goes on with the same registration when nobody has seen it gone', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  const worker = await startWorker()
  await worker.ask('open', { connection: databaseUrl(), schema, name, ttlMs: TTL_MS })
  const { token } = await worker.ask('join', {})
  expect(await worker.ask('block', 1.2 * TTL_MS)).toEqual([false])
  expect(await worker.ask('nextLease', 0)).toBe(token)
  expect(worker.toldOf('lost')).toEqual([{ kind: 'lost', reason: 'unreachable' }])
  expect(await storyOf(admin, schema, name)).toEqual(['joined registered'])
})

test('promise 8: a process whose member was deleted by hand while its event loop was blocked learns why', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  const worker = await startWorker()
  await worker.ask('open', { connection: databaseUrl(), schema, name, ttlMs: 4 * TTL_MS })
  const { id, token } = await worker.ask('join', {})
  const blocked = worker.ask('block', TTL_MS)
  await until(() => worker.toldOf('blocking').length > 0, { message: 'it is blocked' })
  await admin.query(`delete from ${schema}.members where id = $1`, [id])
  // It cannot know yet.
  expect(await blocked).toEqual([true])
  await until(() => worker.toldOf('lost').length > 0, { message: 'it learns' })
  expect(worker.toldOf('lost')).toEqual([{ kind: 'lost', reason: 'removed' }])
  expect(await worker.ask('nextLease', 0)).toBeGreaterThan(token)
})

test('promise 8: a slow heartbeat does not stretch the lease', async () => {
  const proxy = await openProxy()
  const name = uniqueName()
  const cluster = openCluster({
    schema,
    name,
    connection: proxy.throughIt,
    listenConnection: false,
    ttlMs: 2 * TTL_MS,
    heartbeatMs: 200,
  })
  const membership = await joined(cluster)
  const lease = await membership.register()
  // Requests get through, answers do not: the row is renewed, and this process cannot know.
  proxy.freeze({ direction: 'toClient' })
  // A timer that is due after the lease has to end comes after that end, also where the machine is busy and both are late.
  await new Promise((resolve) => setTimeout(resolve, 2 * TTL_MS))
  expect(lease.signal.aborted).toBe(true)
  expect(lease.signal.reason).toMatchObject({ reason: 'unreachable' })
  proxy.thaw()
  expect((await membership.whenRegistered()).token).toBe(lease.token)
})

test('promise 8: a member that somebody else deregistered has been removed, as its owner is told', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  const membership = await joined(openCluster({ schema, name }), { onLost: 'stay-out' })
  const { signal, token } = await membership.register()
  await admin.query(`select ${schema}.deregister($1, array[$2::uuid], array[$3::bigint])`, [
    ...[name, membership.id, token],
  ])
  await until(() => signal.aborted, { message: 'its lease ends' })
  expect(signal.reason).toMatchObject({ code: 'LOST', reason: 'removed' })
  expect((await eventsOf(admin, schema, name)).at(-1)).toMatchObject({ reason: 'deregistered' })
})
