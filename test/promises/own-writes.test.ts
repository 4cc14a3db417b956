/** Promise 1, where the answers of reads are slow and those of writes are not. */
import type { Membership, PostgresCluster } from 'pg-membership'
import { afterAll, expect, test } from 'vitest'
import { adminClient, freshSchema, uniqueName } from '../support/database.js'
import { eventsOf } from '../support/event-log.js'
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
  return { cluster, membership: await joined(cluster), reads, writes }
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

/** Its data is set and shown, and the read that follows a write is under way. */
async function whileReading(slow: Slow): Promise<void> {
  const { cluster, membership, writes } = slow
  writes.freeze({ direction: 'toClient' })
  void membership.setData('older')
  await committed(slow, 2)
  await cluster.getMembers({ fresh: true })
  await readInVain(slow, () => writes.thaw())
}

/** Whatever it is, it is answered before the read that began before it. */
async function overtake(slow: Slow, change: () => Promise<unknown>): Promise<void> {
  const changed = change()
  await committed(slow, 3)
  slow.reads.thaw()
  await changed
}

test('promise 1: data that is set while older data is being read shows when setData resolves', async () => {
  const slow = await openSlow()
  await whileReading(slow)
  await overtake(slow, () => slow.membership.setData('newer'))
  expect(slow.cluster.snapshot?.members).toMatchObject([{ data: 'newer' }])
})

test('promise 1: what is deregistered while it is being read is gone when deregister resolves', async () => {
  const slow = await openSlow()
  await whileReading(slow)
  await overtake(slow, () => slow.membership.deregister())
  expect(slow.cluster.snapshot?.members).toEqual([])
})

test('promise 1: what registers while its leaving is being read shows when register resolves', async () => {
  const slow = await openSlow()
  await readInVain(slow, () => void slow.membership.deregister())
  await overtake(slow, () => slow.membership.register())
  expect(slow.cluster.snapshot?.members).toMatchObject([{ token: slow.membership.lease?.token }])
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
  const { cluster, membership, reads } = slow
  await readInVain(slow, () => void membership.setData('newer'))
  const seen = membership.setData('newer').then(() => cluster.snapshot?.get(membership.id)?.data)
  reads.thaw()
  expect(await seen).toBe('newer')
})
