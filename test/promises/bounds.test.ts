import diagnostics from 'node:diagnostics_channel'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { Membership } from 'pg-membership'
import { expect, test } from 'vitest'
import { type AdminClient, databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { tableOf, typeMembers } from '../support/event-log.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import { until } from '../support/until.js'
import { countOf } from '../support/wire.js'

const schema = await freshSchema()
const members = `${schema}.members`

async function connectionsOf(admin: AdminClient, session: string): Promise<number> {
  const { rows } = await admin.query<{ n: string }>(
    'select count(*) as n from pg_stat_activity where application_name = $1',
    [session],
  )
  return Number(rows[0]?.n)
}

/** The application_name of the connections that have come since `before`, which all carry the same. */
async function sessionsNow(admin: AdminClient): Promise<Set<string>> {
  const { rows } = await admin.query<{ name: string }>(
    `select distinct application_name as name from pg_stat_activity where application_name like 'pg-membership %'`,
  )
  return new Set(rows.map(({ name }) => name))
}

async function collectGarbage(): Promise<void> {
  setFlagsFromString('--expose-gc')
  const gc = runInNewContext('gc') as () => void
  // What a finished turn still holds is let go in the next.
  for (let n = 0; n < 3; n++) {
    await new Promise((resolve) => setImmediate(resolve))
    gc()
  }
}

function countAlive(refs: readonly WeakRef<object>[]): number {
  return refs.filter((ref) => ref.deref() !== undefined).length
}

test('promise 11: clusters that share connections sweep and beat together', async () => {
  const [admin, proxy] = [await openAdmin(), await openProxy()]
  const names = Array.from({ length: 40 }, () => uniqueName())
  await admin.query(
    `insert into ${members} (id, cluster, ttl) select gen_random_uuid(), cluster, '1 day' from unnest($1::text[]) cluster`,
    [names],
  )
  const times = { ttlMs: 3_000, heartbeatMs: 1_000 }
  const first = openCluster({ schema, name: uniqueName(), connection: proxy.throughIt, ...times })
  const clusters = names.map((name) => openCluster({ schema, name, connection: first.connections, ...times }))
  await Promise.all(clusters.map((cluster) => joined(cluster)))
  const [statements, count] = [countOf(proxy, 'heartbeat', 'sweep_idle'), { beats: 0, sweeps: 0 }]
  const note = (what: keyof typeof count) => (message: unknown) => {
    if (names.includes((message as { readonly cluster: string }).cluster)) count[what] += 1
  }
  const [onBeat, onSweep] = [note('beats'), note('sweeps')]
  diagnostics.subscribe('pg-membership:heartbeat', onBeat)
  diagnostics.subscribe('pg-membership:sweep', onSweep)
  await until(() => count.beats >= 120 && count.sweeps >= 400, {
    withinMs: 20_000,
    message: 'heartbeats and sweeps',
  })
  diagnostics.unsubscribe('pg-membership:heartbeat', onBeat)
  diagnostics.unsubscribe('pg-membership:sweep', onSweep)
  expect(statements()).toBeGreaterThan(0)
  expect(statements()).toBeLessThan((count.beats + count.sweeps) / 3)
  for (const cluster of clusters) expect(cluster.snapshot?.members).toHaveLength(2)
}, 40_000)

test('promise 11: a process has three connections, two when it is idle, and none when it is closed; all carry one name', async () => {
  const admin = await openAdmin()
  const before = await sessionsNow(admin)
  const first = openCluster({ schema, name: uniqueName(), connection: databaseUrl() })
  const clusters = [first]
  for (let n = 0; n < 4; n++) {
    clusters.push(openCluster({ schema, name: uniqueName(), connection: first.connections }))
  }
  for (const cluster of clusters) {
    const membership = await joined(cluster)
    await membership.setData('busy')
  }
  // Others to watch over: sweeping needs no third connection.
  await admin.query(
    `insert into ${members} (id, cluster, ttl) select gen_random_uuid(), cluster, '1 day' from unnest($1::text[]) cluster`,
    [clusters.map(({ name }) => name)],
  )
  const mine = await until(
    async () => {
      const { rows } = await admin.query<{ session: string | null }>(
        `select distinct session from ${members} where cluster = any ($1) and session is not null`,
        [clusters.map(({ name }) => name)],
      )
      return rows.length === 1 ? rows[0]?.session : undefined
    },
    { message: 'the session is claimed' },
  )
  expect(before.has(mine)).toBe(false)
  expect(mine).toMatch(/^[\x20-\x7e]{1,63}$/)
  let most = 0
  await until(
    async () => {
      const now = await connectionsOf(admin, mine)
      most = Math.max(most, now)
      return now === 2
    },
    { withinMs: 20_000, message: 'the third connection is closed when idle' },
  )
  expect(most).toBeLessThanOrEqual(3)
  await Promise.all(clusters.map((cluster) => cluster.close()))
  await until(async () => (await connectionsOf(admin, mine)) === 0, { message: 'no backend is left behind' })
}, 40_000)

test.each([
  ['frozen', 'listening'],
  ['frozen', 'connecting'],
  ['cut', 'listening'],
] as const)('promise 11: close is bounded where the network is %s while %s', async (what, state) => {
  const proxy = await openProxy()
  const cluster = openCluster({
    schema,
    name: uniqueName(),
    connection: proxy.throughIt,
    closeTimeoutMs: 1_000,
  })
  const pending: Promise<unknown>[] = []
  if (state === 'connecting') proxy.freeze()
  else {
    await joined(cluster)
    await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
    if (what === 'frozen') proxy.freeze()
    else await proxy.cut()
  }
  pending.push(cluster.getMembers({ fresh: true }), cluster.createMembership().register())
  const settled = Promise.allSettled(pending)
  await until(() => proxy.connections >= (what === 'cut' ? 0 : 1), { message: 'something is under way' })
  const startedMs = performance.now()
  await cluster.close()
  // Answers and locks are waited for longer than that.
  expect(performance.now() - startedMs).toBeLessThan(2_800)
  expect((await settled).map(({ status }) => status)).toEqual(['rejected', 'rejected'])
  proxy.thaw()
  await until(() => proxy.connections === 0, { message: 'no socket is left behind' })
})

test('promise 11: close is bounded while somebody holds the row, and leaves the others cleanly', async () => {
  const [admin, locking] = [await openAdmin(), await openAdmin()]
  const name = uniqueName()
  const cluster = openCluster({ schema, name, closeTimeoutMs: 1_000 })
  const [held] = [await joined(cluster), await joined(cluster), await joined(cluster)]
  await locking.query('begin')
  await locking.query(`select from ${members} where id = $1 for key share`, [held.id])
  const startedMs = performance.now()
  await cluster.close()
  expect(performance.now() - startedMs).toBeLessThan(2_800)
  expect((await tableOf(admin, schema, name)).members.map(({ id }) => id)).toEqual([held.id])
  await locking.query('rollback')
})

test('promise 11: whatever the functions wait for, they wait for a bounded time', async () => {
  const locking = await openAdmin()
  const name = uniqueName()
  const [id = ''] = await typeMembers(locking, schema, name, ['locked'])
  const calls = [
    `select ${schema}.register('${name}', array['${id}'::uuid], '{x}', '{1}', '15 s', null, 'nobody', 0)`,
    `select ${schema}.register('${name}', array[gen_random_uuid()], '{x}', '{1}', '15 s', null, 'nobody', 0)`,
    `select ${schema}.set_data('${name}', array['${id}'::uuid], '{1}', '{y}')`,
    `select ${schema}.deregister('${name}', array['${id}'::uuid], '{1}')`,
    `select ${schema}.heartbeat('${name}', array['${id}'::uuid], '{1}', 'nobody', 0)`,
    `select ${schema}.sweep('${name}')`,
    `select ${schema}.fence('${id}'::uuid, 1::bigint)`,
  ]
  for (const lock of [
    `select from ${members} where id = '${id}' for update`,
    `select from ${schema}.clusters where name = '${name}' for update`,
    `lock table ${members} in access exclusive mode`,
  ]) {
    await locking.query('begin')
    await locking.query(lock)
    await Promise.all(
      calls.map(async (call) => {
        const client = await openAdmin()
        const startedMs = performance.now()
        await client.query('begin')
        await client.query(call).catch((error: unknown) => {
          expect(error, call).toMatchObject({ code: '55P03' })
        })
        // Below the patience of the connection, which would end it.
        expect(performance.now() - startedMs, call).toBeLessThan(4_500)
        await client.query('rollback')
      }),
    )
    await locking.query('rollback')
  }
}, 40_000)

test('promise 11: a row that somebody holds does not hold up the other memberships of its process', async () => {
  const [admin, locking] = [await openAdmin(), await openAdmin()]
  const name = uniqueName()
  const cluster = openCluster({ schema, name })
  const [leaving, changing] = [await joined(cluster), await joined(cluster)]
  await locking.query('begin')
  for (const { id } of [leaving, changing]) {
    await locking.query(`select from ${members} where id = $1 for update`, [id])
  }
  const left = leaving.deregister()
  const changed = changing.setData('changed')
  // Both are on their way when the others begin.
  const startedMs = performance.now()
  const others: Membership[] = []
  for (let n = 0; n < 3; n++) {
    others.push(await joined(cluster))
    await others[n]?.setData(`other ${n}`)
  }
  await others[0]?.deregister()
  expect(performance.now() - startedMs).toBeLessThan(1_500)
  expect((await tableOf(admin, schema, name)).members.map(({ data }) => data)).toEqual([
    '',
    '',
    'other 1',
    'other 2',
  ])
  await locking.query('rollback')
  await Promise.all([left, changed])
  expect((await cluster.getMembers()).map(({ data }) => data)).toEqual(['changed', 'other 1', 'other 2'])
})

test('promise 11: two thousand memberships that came and went leave nothing behind', async () => {
  const cluster = openCluster({ schema, name: uniqueName() })
  const refs: WeakRef<object>[] = []
  const comeAndGo = async (): Promise<void> => {
    for (let n = 0; n < 8; n++) {
      const some = Array.from({ length: 250 }, () => cluster.createMembership({ data: 'x'.repeat(100) }))
      const leases = await Promise.all(some.map((membership) => membership.register()))
      await Promise.all(some.map((membership) => membership.deregister()))
      for (const own of [...some, ...leases]) refs.push(new WeakRef(own))
    }
  }
  await comeAndGo()
  // What the last call touched may linger: that is one, then, and not all that came and went together.
  await (await joined(cluster)).deregister()
  expect(cluster.snapshot?.members).toEqual([])
  await collectGarbage()
  expect(refs).toHaveLength(4_000)
  expect(countAlive(refs)).toBeLessThan(10)
}, 60_000)

test('promise 11: waits that were given up leave nothing behind', async () => {
  const cluster = openCluster({ schema, name: uniqueName() })
  await cluster.getMembers()
  const refs: WeakRef<object>[] = []
  const giveUp = async (): Promise<void> => {
    const controller = new AbortController()
    const { signal } = controller
    const waits = Array.from({ length: 200 }, () => {
      const membership = cluster.createMembership()
      refs.push(new WeakRef(membership))
      return membership.whenRegistered({ signal })
    })
    // Each with a signal of its own, which nothing but the watcher holds.
    const controllers = Array.from({ length: 200 }, () => new AbortController())
    const watchers = controllers.map((own) => cluster.watchMembers({ signal: own.signal }))
    refs.push(...watchers.map((watcher) => new WeakRef(watcher)))
    refs.push(...controllers.map((own) => new WeakRef(own.signal)))
    await Promise.all(watchers.map((watcher) => watcher.next()))
    const steps = watchers.map((watcher) => watcher.next())
    const settled = Promise.allSettled([...waits, ...steps])
    await cluster.getMembers({ fresh: true })
    controller.abort()
    for (const own of controllers) own.abort()
    await settled
  }
  await giveUp()
  await cluster.getMembers({ fresh: true })
  await collectGarbage()
  expect(countAlive(refs)).toBeLessThan(10)
})

test('promise 11: a watcher that nobody steps holds one snapshot at most, and keeps none of the others alive', async () => {
  const cluster = openCluster({ schema, name: uniqueName() })
  const membership = await joined(cluster)
  const watchers = Array.from({ length: 20 }, () => cluster.watchMembers())
  for (const watcher of watchers) await watcher.next()
  const refs: WeakRef<object>[] = []
  const change = async (): Promise<void> => {
    for (let n = 0; n < 100; n++) {
      await membership.setData(String(n))
      refs.push(new WeakRef(await cluster.getMembers()))
    }
  }
  await change()
  await collectGarbage()
  // The present one, the one that each has seen, and what the last call touched.
  expect(countAlive(refs)).toBeLessThan(5)
  for (const watcher of watchers) {
    expect((await watcher.next()).value).toMatchObject([{ data: '99' }])
  }
})
