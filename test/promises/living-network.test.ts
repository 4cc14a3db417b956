import { afterAll, expect, onTestFinished, test } from 'vitest'
import { type AdminClient, databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { storyOf, tableOf } from '../support/event-log.js'
import { elapsed, startFleet, sweptAfter, TTL_MS, watchOver } from '../support/fleet.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import { startProxy, type TcpProxy } from '../support/tcp-proxy.js'
import { until } from '../support/until.js'
import { sends } from '../support/wire.js'

const schema = await freshSchema()
const [one, left, right] = [
  await startProxy(databaseUrl()),
  await startProxy(databaseUrl()),
  await startProxy(databaseUrl()),
]
const all = [one, left, right]
afterAll(async () => {
  for (const proxy of all) await proxy[Symbol.asyncDispose]()
})
const fleet = await startFleet(
  schema,
  [one, left, left, right, right].map((proxy) => proxy.url(databaseUrl())),
)

interface Fault {
  readonly breaks: (proxy: TcpProxy) => unknown
  readonly heals: (proxy: TcpProxy) => unknown
}

const thaw = (proxy: TcpProxy): void => proxy.thaw()
const freeze: Fault = { breaks: (proxy) => proxy.freeze(), heals: thaw }
const freezeRequests: Fault = { breaks: (proxy) => proxy.freeze({ direction: 'toServer' }), heals: thaw }
const freezeAnswers: Fault = { breaks: (proxy) => proxy.freeze({ direction: 'toClient' }), heals: thaw }
/** There and back it is more than the grace, and less than a heartbeat waits for its answer: a quarter of the ttl. */
const delay: Fault = { breaks: (proxy) => proxy.delay(220), heals: (proxy) => proxy.delay(0) }
const reset: Fault = { breaks: (proxy) => proxy.reset(), heals: () => undefined }
const cut: Fault = { breaks: (proxy) => proxy.cut(), heals: (proxy) => proxy.restore() }

/** Less than half the grace, which is 400 ms. */
const BRIEFLY_MS = 150
/** More than twice the grace, and less than a lease can take. */
const LONG_MS = 900

test.each<[who: string, fault: string, ms: number, Fault, readonly TcpProxy[]]>([
  ['one', 'freezes', LONG_MS, freeze, [one]],
  ['one', 'swallows requests', LONG_MS, freezeRequests, [one]],
  ['one', 'swallows answers', LONG_MS, freezeAnswers, [one]],
  ['one', 'is slow', LONG_MS, delay, [one]],
  ['one', 'resets all connections', LONG_MS, reset, [one]],
  ['one', 'is cut off', BRIEFLY_MS, cut, [one]],
  ['all', 'freezes', LONG_MS, freeze, all],
  ['all', 'is slow', LONG_MS, delay, all],
  ['all', 'resets all connections', LONG_MS, reset, all],
  ['all', 'is cut off', LONG_MS, cut, all],
])(
  'promise 7: when the network of %s %s, for %i ms, no lease ends',
  async (_who, _fault, ms, fault, proxies) => {
    const admin = await openAdmin()
    const watch = await watchOver(fleet, admin)
    const brokenMs = performance.now()
    await Promise.all(proxies.map(fault.breaks))
    await elapsed(brokenMs, ms)
    await Promise.all(proxies.map(fault.heals))
    await watch.expectUnharmed(admin, { unreachableMs: performance.now() - brokenMs })
  },
)

test('promise 7: when the network of all is frozen for longer than the ttl, nobody loses its registration', async () => {
  const admin = await openAdmin()
  const watch = await watchOver(fleet, admin)
  const brokenMs = performance.now()
  await Promise.all([freeze.breaks(one), freezeRequests.breaks(left), freezeAnswers.breaks(right)])
  await elapsed(brokenMs, 1.3 * TTL_MS)
  const leases = await Promise.all(fleet.workers.map((worker) => worker.ask('lease', 0)))
  expect(leases).toEqual(leases.map(() => undefined))
  all.forEach(thaw)
  await watch.expectUnharmed(admin, { unreachableMs: Infinity })
})

/** Of how many members the process has a connection, in one look. */
async function present(admin: AdminClient): Promise<number> {
  const { rowCount } = await admin.query(
    `select from ${schema}.members where cluster = $1 and session in (select application_name from pg_stat_activity)`,
    [fleet.name],
  )
  return rowCount ?? 0
}

test('promise 7: a network that comes back in parts, after it had cut off most members, costs nobody its registration', async () => {
  const admin = await openAdmin()
  // It is about graces: nobody may expire meanwhile, however long it takes.
  const setTtl = async (ttl: string): Promise<void> => {
    await admin.query(`update ${schema}.members set ttl = $2 where cluster = $1`, [fleet.name, ttl])
  }
  onTestFinished(() => setTtl(`${TTL_MS} ms`))
  await setTtl('1 hour')
  const watch = await watchOver(fleet, admin)
  await Promise.all([left.cut(), right.cut()])
  await until(async () => (await present(admin)) === 1, { message: 'most are cut off' })
  await sweptAfter(fleet, admin, 0)
  await left.restore()
  await until(async () => (await present(admin)) === 3, { message: 'some are back' })
  // Fewer than half are missing now, for longer than their grace.
  await sweptAfter(fleet, admin, 1_000)
  await right.restore()
  await watch.expectUnharmed(admin, { unreachableMs: Infinity })
})

test('promise 8: who alone was cut off for longer than its grace learns that it was taken for crashed, and returns; the others stay', async () => {
  const admin = await openAdmin()
  await watchOver(fleet, admin)
  const [id = ''] = fleet.ids
  const { members } = await tableOf(admin, schema, fleet.name)
  const isThere = async (): Promise<boolean> =>
    (await tableOf(admin, schema, fleet.name)).members.some((member) => member.id === id)
  await one.cut()
  await until(async () => !(await isThere()), { message: 'it is removed' })
  await one.restore()
  await until(isThere, { message: 'it is back' })
  await until(() => fleet.workers[0]?.toldOf('lost').at(-1)?.reason === 'crashed', {
    message: 'it has learnt why',
  })
  expect((await storyOf(admin, schema, fleet.name)).slice(-2)).toEqual(['left crashed', 'joined registered'])
  const after = (await tableOf(admin, schema, fleet.name)).members
  expect(after.slice(0, 4)).toEqual(members.filter((member) => member.id !== id))
  expect(after[4]?.token).toBeGreaterThan(members.at(-1)?.token ?? 0)
  await (await watchOver(fleet, admin)).expectUnharmed(admin)
})

test('promise 7: after all connections were lost, the first statement on the next is a heartbeat', async () => {
  const admin = await openAdmin()
  const watch = await watchOver(fleet, admin)
  let sentUntilHeartbeat: string | undefined
  void one.cutOnce({
    direction: 'toServer',
    afterBytes: 0,
    when: ({ sent }) => {
      const isNew = sent.includes('pg_is_in_recovery()')
      if (isNew && sends('heartbeat')({ sent })) sentUntilHeartbeat ??= sent
      return false
    },
  })
  one.reset()
  const sent = await until(() => sentUntilHeartbeat, { message: 'a heartbeat' })
  expect(sends('changes')({ sent }), 'a refresh came first').toBe(false)
  await watch.expectUnharmed(admin)
})

test('promise 7: on a new connection a heartbeat goes before reads that were asked for sooner', async () => {
  const proxy = await openProxy()
  const living = openCluster({
    schema,
    name: uniqueName(),
    connection: proxy.throughIt,
    listenConnection: false,
  })
  await joined(living)
  const readers = [1, 2, 3].map(() =>
    openCluster({ schema, name: uniqueName(), connection: living.connections }),
  )
  for (const reader of readers) await reader.getMembers()
  for (let n = 0; n < 3; n++) {
    proxy.freeze({ direction: 'toClient' })
    const readings = readers.map((reader) => reader.getMembers({ fresh: true }))
    proxy.reset()
    const sent = proxy.record({ direction: 'toServer', when: () => true })
    proxy.thaw()
    await Promise.all(readings)
    const text = Buffer.concat(sent).toString('latin1')
    const order = [...text.matchAll(/-- (heartbeat|changes)\n/g)].map(([, statement]) => statement)
    expect(order[0], order.join()).toBe('heartbeat')
    expect(order).toContain('changes')
  }
})
