/** Promise 1, where reads are answered slowly and writes are not. */
import type { Membership, PostgresCluster } from 'pg-membership'
import { afterAll, expect, test } from 'vitest'
import { adminClient, freshSchema, uniqueName } from '../support/database.js'
import { eventsOf, typeMembers } from '../support/event-log.js'
import { joined, openCluster, openProxy } from '../support/opened.js'
import type { TcpProxy } from '../support/tcp-proxy.js'
import { until } from '../support/until.js'

const schema = await freshSchema()
const admin = await adminClient()
afterAll(() => admin.end())

interface Slow {
  readonly cluster: PostgresCluster
  readonly membership: Membership
  /** The networks of what it reads, and of what it writes. */
  readonly reads: TcpProxy
  readonly writes: TcpProxy
}

async function openSlow(): Promise<Slow> {
  const [reads, writes] = [await openProxy(), await openProxy()]
  let connected = 0
  const cluster = openCluster({
    schema,
    name: uniqueName(),
    // It reads first.
    connection: () => Promise.resolve(connected++ === 0 ? reads.throughIt : writes.throughIt),
    listenConnection: false,
    ttlMs: 60_000,
  })
  await cluster.getMembers()
  return { cluster, membership: await joined(cluster, { data: 'one' }), reads, writes }
}

/** Waits until the database has done so many changes. */
async function committed({ cluster }: Slow, changes: number): Promise<void> {
  await until(async () => (await eventsOf(admin, schema, cluster.name)).length >= changes, {
    message: `${changes} changes`,
  })
}

/** Waits until the database has done a read that nobody has heard of yet. */
async function readInVain({ reads }: Slow, begin: () => unknown): Promise<void> {
  const count = `select count(*)::integer as n from pg_stat_activity
    where query like '%as reached%' and query like $1 and state = 'idle' and query_start > $2::timestamptz`
  const { rows } = await admin.query<{ now: string }>('select clock_timestamp()::text as now')
  reads.freeze({ direction: 'toClient' })
  begin()
  await until(
    async () => (await admin.query<{ n: number }>(count, [`%"${schema}"%`, rows[0]?.now])).rows[0]?.n === 1,
    { message: 'a read' },
  )
}

/** Its data is set and shown, and a refresh is under way: its answer is late. */
async function whileReading(slow: Slow): Promise<void> {
  await slow.membership.setData('older')
  await readInVain(slow, () => void slow.cluster.getMembers({ fresh: true }))
}

/** A change is answered before the refresh that began before it, which takes nothing back. */
async function overtake(slow: Slow, change: () => Promise<unknown>, shown: () => object[]): Promise<void> {
  await change()
  expect(slow.cluster.snapshot?.members).toMatchObject(shown())
  slow.reads.thaw()
  await slow.cluster.getMembers({ fresh: true })
  expect(slow.cluster.snapshot?.members).toMatchObject(shown())
}

test('promises 1 and 3: data that is set while older data is being read shows when setData resolves', async () => {
  const slow = await openSlow()
  await whileReading(slow)
  await overtake(
    slow,
    () => slow.membership.setData('newer'),
    () => [{ data: 'newer' }],
  )
})

test('promises 1 and 3: what is deregistered while it is being read is gone when deregister resolves', async () => {
  const slow = await openSlow()
  await whileReading(slow)
  await overtake(
    slow,
    () => slow.membership.deregister(),
    () => [],
  )
})

test('promises 1 and 3: what registers while its leaving is being read shows when register resolves', async () => {
  const slow = await openSlow()
  await slow.membership.deregister()
  await readInVain(slow, () => void slow.cluster.getMembers({ fresh: true }))
  await overtake(
    slow,
    () => slow.membership.register(),
    () => [{ token: slow.membership.lease?.token }],
  )
})

test('promise 1: a write that others were ahead of shows with what they did, when a refresh has found it', async () => {
  const slow = await openSlow()
  const { cluster, membership } = slow
  await typeMembers(admin, schema, cluster.name, ['other'])
  let resolved = false
  await readInVain(slow, () => void membership.setData('newer').then(() => (resolved = true)))
  expect(resolved).toBe(false)
  expect(cluster.snapshot?.members).toMatchObject([{ data: 'one' }])
  slow.reads.thaw()
  await until(() => resolved, { message: 'it resolves' })
  expect(cluster.snapshot?.members).toMatchObject([{ data: 'newer' }, { data: 'other' }])
})

test('promise 1: data that is set while the answer to register is lost shows when setData resolves', async () => {
  const slow = await openSlow()
  const { cluster, writes } = slow
  const membership = cluster.createMembership({ data: 'older' })
  writes.freeze({ direction: 'toClient' })
  const registered = membership.register()
  await committed(slow, 2)
  await cluster.getMembers({ fresh: true })
  const saved = membership.setData('newer')
  writes.reset()
  writes.thaw()
  await saved
  expect(cluster.snapshot?.get(membership.id)?.data).toBe('newer')
  await registered
})

test('promise 1: who sets the same data again is not told before it shows', async () => {
  const slow = await openSlow()
  const { cluster, membership, writes } = slow
  writes.freeze({ direction: 'toClient' })
  void membership.setData('newer')
  await committed(slow, 2)
  const seen = membership.setData('newer').then(() => cluster.snapshot?.get(membership.id)?.data)
  writes.thaw()
  expect(await seen).toBe('newer')
})
