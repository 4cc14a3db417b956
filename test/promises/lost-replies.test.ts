import type { Membership, PostgresCluster } from 'pg-membership'
import { expect, test, vi } from 'vitest'
import { type AdminClient, databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { eventsOf, expectWholeLog, tableOf } from '../support/event-log.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import type { TcpProxy } from '../support/tcp-proxy.js'
import { until } from '../support/until.js'
import { broken, placesIn, placesOf, someOf } from '../support/wire.js'

// Places of a conversation are broken, one after another; every one with `npm run test:long`.
vi.setConfig({ testTimeout: 60_000 })

const schema = await freshSchema()

interface Scene {
  readonly admin: AdminClient
  readonly proxy: TcpProxy
  readonly name: string
  /** Through the proxy. */
  readonly cluster: PostgresCluster
  /** Another process's view, as far as the database can tell. */
  readonly observer: PostgresCluster
}

async function scene(): Promise<Scene> {
  const [admin, proxy, name] = [await openAdmin(), await openProxy(), uniqueName()]
  // All connections are lost again and again: it is the answers that matter, not how soon there is another one.
  const options = { listenConnection: false, crashGraceMs: false } as const
  const cluster = openCluster({ schema, name, connection: proxy.throughIt, ...options })
  const observer = openCluster({ schema, name })
  await observer.getMembers()
  await joined(cluster, { data: 'first' })
  // Tokens of one length: so that answers are, too.
  await admin.query(`update ${schema}.clusters set last_token = 1000 where name = $1`, [name])
  return { admin, proxy, name, cluster, observer }
}

/** What happened to these members, as the log tells it: 'joined 1' if that happened to one of them, once. */
async function countsOf({ admin, name }: Scene, ids: readonly string[]): Promise<Record<string, number>> {
  const counts: Record<string, number> = {}
  for (const { kind, reason, member } of await eventsOf(admin, schema, name)) {
    if (ids.includes(member)) counts[`${kind} ${reason}`] = (counts[`${kind} ${reason}`] ?? 0) + 1
  }
  return counts
}

/** The log is whole, and both processes see the table. */
async function expectConsistent({ admin, name, cluster, observer }: Scene, hint = ''): Promise<void> {
  await expectWholeLog(admin, schema, name, hint)
  const { revision, members } = await tableOf(admin, schema, name)
  expect(await cluster.getMembers({ fresh: true }), hint).toEqual(members)
  await until(() => observer.snapshot?.revision === revision, { message: `the observer follows ${hint}` })
  expect(observer.snapshot?.members, hint).toEqual(members)
}

/** Of one length, whatever n is. */
function text(n: number): string {
  return `data ${String(n).padStart(4, '0')}`
}

function create(cluster: PostgresCluster, count: number): Membership[] {
  return Array.from({ length: count }, (_, n) => cluster.createMembership({ data: text(n) }))
}

const register = (some: readonly Membership[]) => Promise.all(some.map((one) => one.register()))
const deregister = (some: readonly Membership[]) => Promise.all(some.map((one) => one.deregister()))
const setData = (some: readonly Membership[], n: number) =>
  Promise.all(some.map((one) => one.setData(text(n))))

test.each([1, 8])(
  'promises 1 and 4: wherever a connection breaks while %i are registered, each joins exactly once',
  async (count) => {
    const its = await scene()
    const { proxy, cluster } = its
    const places = await placesOf(proxy, 'register', () => register(create(cluster, count)))
    for (const place of places) {
      const some = create(cluster, count)
      const leases = await broken(proxy, 'register', place, () => register(some))
      // Read your own writes, and nothing else.
      const shown = some.map(({ id }) => cluster.snapshot?.get(id))
      expect(shown, place.where).toMatchObject(leases.map(({ token }, n) => ({ token, data: text(n) })))
      const counts = await countsOf(
        its,
        some.map(({ id }) => id),
      )
      expect(counts, place.where).toEqual({ 'joined registered': count })
    }
    await expectConsistent(its)
  },
)

test.each([1, 8])(
  'promises 1 and 4: wherever a connection breaks while %i change their data, each changes exactly once',
  async (count) => {
    const its = await scene()
    const { proxy, cluster } = its
    const some = create(cluster, count)
    await register(some)
    // Later it is prepared, and shorter.
    await setData(some, 999)
    const places = await placesOf(proxy, 'set_data', () => setData(some, 1000))
    for (const [n, place] of places.entries()) {
      await broken(proxy, 'set_data', place, () => setData(some, 1001 + n))
      const shown = some.map(({ id }) => cluster.snapshot?.get(id)?.data)
      expect(shown, place.where).toEqual(some.map(() => text(1001 + n)))
      const counts = await countsOf(
        its,
        some.map(({ id }) => id),
      )
      expect(counts['updated data'], place.where).toBe(count * (n + 3))
    }
    await expectConsistent(its)
  },
)

test.each([1, 8])(
  'promises 1 and 4: wherever a connection breaks while %i are deregistered, each leaves exactly once',
  async (count) => {
    const its = await scene()
    const { proxy, cluster } = its
    const [early, guests] = [create(cluster, count), create(cluster, count)]
    await register([...early, ...guests])
    await deregister(early)
    const places = await placesOf(proxy, 'deregister', () => deregister(guests))
    for (const place of places) {
      const some = create(cluster, count)
      await register(some)
      await broken(proxy, 'deregister', place, () => deregister(some))
      expect(
        cluster.snapshot?.members.map(({ data }) => data),
        place.where,
      ).toEqual(['first'])
      const counts = await countsOf(
        its,
        some.map(({ id }) => id),
      )
      expect(counts, place.where).toEqual({ 'joined registered': count, 'left deregistered': count })
    }
    await expectConsistent(its)
  },
)

test('promises 1 and 4: answers that are lost again and again, of everything at once, lose and double nothing', async () => {
  const its = await scene()
  const { proxy, cluster } = its
  const [joining, changing, leaving] = [create(cluster, 5), create(cluster, 5), create(cluster, 5)]
  await register([...changing, ...leaving])
  const place = { direction: 'toClient', afterBytes: 0, where: 'before the answer' } as const
  const lose = <T>(text: string, act: () => Promise<T>): Promise<T> => broken(proxy, text, place, act, 3)
  await Promise.all([
    lose('register', () => register(joining)),
    lose('set_data', () => setData(changing, 7)),
    lose('deregister', () => deregister(leaving)),
  ])
  for (const [some, counts] of [
    [joining, { 'joined registered': 5 }],
    [changing, { 'joined registered': 5, 'updated data': 5 }],
    [leaving, { 'joined registered': 5, 'left deregistered': 5 }],
  ] as const) {
    expect(
      await countsOf(
        its,
        some.map(({ id }) => id),
      ),
    ).toEqual(counts)
  }
  await expectConsistent(its)
})

test('promises 1 and 4: data that is set while the answer to a registration is lost arrives, and nothing older after it', async () => {
  const its = await scene()
  const { proxy, cluster } = its
  const place = { direction: 'toClient', afterBytes: 0, where: 'before the answer' } as const
  for (let n = 0; n < 10; n++) {
    const [one] = create(cluster, 1)
    if (!one) return
    let set: Promise<void> | undefined
    await broken(proxy, 'register', place, async () => {
      const registered = one.register()
      // Between the statement and the loss of its answer, or about then.
      for (let turns = 0; turns < n; turns++) await new Promise((resolve) => setImmediate(resolve))
      set = one.setData('newer')
      await registered
    })
    await set
    expect(cluster.snapshot?.get(one.id)?.data).toBe('newer')
    const counts = await countsOf(its, [one.id])
    expect(counts['joined registered']).toBe(1)
    await one.deregister()
  }
  await expectConsistent(its)
})

test('promise 8: heartbeats whose answers are lost cost no lease, and one that has bad news is heard all the same', async () => {
  const its = await scene()
  const { admin, proxy, name, cluster } = its
  const membership = await joined(cluster, { data: 'steady' })
  const lease = await membership.register()
  // The loss of any connection asks for a heartbeat at once.
  const beat = async (): Promise<void> => proxy.reset()
  const heartbeatAt = async (): Promise<string | undefined> => {
    const { rows } = await admin.query<{ at: string }>(
      `select heartbeat_at::text as at from ${schema}.members where id = $1`,
      [membership.id],
    )
    return rows[0]?.at
  }
  const heardSince = async (at: string | undefined): Promise<void> => {
    const later = `select from ${schema}.members where id = $1 and heartbeat_at > $2`
    await until(async () => (await admin.query(later, [membership.id, at])).rowCount === 1, {
      message: 'a heartbeat',
    })
  }
  const places = await placesOf(proxy, 'heartbeat', async () => {
    const before = await heartbeatAt()
    await beat()
    await heardSince(before)
    await cluster.getMembers({ fresh: true })
  })
  for (const place of places) {
    await broken(proxy, 'heartbeat', place, beat, 2)
    await heardSince(await heartbeatAt())
  }
  expect(membership.lease).toBe(lease)
  expect((await tableOf(admin, schema, name)).revision).toBe(2)
  for (const place of places) {
    const before = await membership.whenRegistered()
    const reasons: unknown[] = []
    before.signal.addEventListener('abort', () => reasons.push(before.signal.reason))
    // On a new connection, as when the places were found: the statement is sent whole there.
    await broken(proxy, 'heartbeat', place, async () => {
      await admin.query(`delete from ${schema}.members where id = $1`, [membership.id])
      await beat()
    })
    await until(() => before.signal.aborted, { message: `the loss is heard ${place.where}` })
    expect((await membership.whenRegistered()).token, place.where).toBeGreaterThan(before.token)
    expect(reasons, place.where).toMatchObject([{ code: 'LOST', reason: 'removed' }])
  }
  await expectConsistent(its)
})

test.each(['heartbeats and reads', 'writes', 'hints'])(
  'promise 12: wherever the connection for %s breaks while it is opened, it is opened again, and nobody hears of it',
  async (which) => {
    const [admin, proxy, name] = [await openAdmin(), await openProxy(), uniqueName()]
    let connection = which === 'heartbeats and reads' ? proxy.throughIt : databaseUrl()
    const open = async (): Promise<PostgresCluster> => {
      const cluster = openCluster({
        schema,
        name,
        connection: () => Promise.resolve(connection),
        listenConnection: which === 'hints' ? proxy.throughIt : false,
      })
      if (which !== 'writes') return cluster
      connection = databaseUrl()
      await cluster.getMembers()
      connection = proxy.throughIt
      return cluster
    }
    const use = async (cluster: PostgresCluster): Promise<void> => {
      await joined(cluster)
      const mode = which === 'hints' ? 'listening' : 'polling'
      await until(() => cluster.status.mode === mode, { message: `${mode}, not ${cluster.status.mode}` })
      await cluster.close()
    }
    const all = { when: () => true }
    const asked = proxy.record({ ...all, direction: 'toServer' })
    const told = proxy.record({ ...all, direction: 'toClient' })
    await use(await open())
    // The start of the connection, the greeting or LISTEN, and the first statement.
    const places = someOf([
      { direction: 'toServer', afterBytes: 0, where: 'before everything' } as const,
      {
        direction: 'toServer',
        afterBytes: Math.floor((asked[0]?.length ?? 0) / 2),
        where: 'in the first packet',
      } as const,
      // A dozen settings are told one after another: one of them is enough.
      ...placesIn('toClient', Buffer.concat(told), 3).filter(
        ({ where }) => !/ [4-9] \(S\)| 1\d \(S\)/.test(where),
      ),
    ])
    for (const place of places) {
      const cluster = await open()
      await broken(proxy, '', place, () => use(cluster))
    }
    expect((await tableOf(admin, schema, name)).members).toEqual([])
    const events = await expectWholeLog(admin, schema, name)
    expect(events).toHaveLength(2 * (1 + places.length))
    await until(() => proxy.connections === 0, { message: 'no connection is left behind' })
  },
)
