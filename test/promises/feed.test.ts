import { fork } from 'node:child_process'
import { once } from 'node:events'
import type { Change, PostgresCluster } from 'pg-membership'
import { CompactedError, SchemaError } from 'pg-membership'
import { expect, test } from 'vitest'
import { type AdminClient, databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { eventsOf, loseCommits, typeMembers } from '../support/event-log.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import { startRoles } from '../support/roles.js'
import { size } from '../support/size.js'
import { until } from '../support/until.js'
import { broken, countOf, placesOf } from '../support/wire.js'

const schema = await freshSchema()
const roles = await startRoles()
const BEGINNING = '0.'
const MIB = 1_048_576

async function take(changes: AsyncIterator<Change>, count: number): Promise<Change[]> {
  const taken: Change[] = []
  while (taken.length < count) {
    const result = await changes.next()
    if (result.done === true) throw new Error(`the feed ended after ${String(taken.length)}`)
    taken.push(result.value)
  }
  return taken
}

const revisionsOf = (changes: readonly Change[]): number[] => changes.map(({ revision }) => revision)
const upTo = (count: number): number[] => Array.from({ length: count }, (_, n) => n + 1)

/** In its own transaction, with one stamp for all. */
async function typeMany(admin: AdminClient, cluster: string, count: number, bytes = 1): Promise<void> {
  await admin.query(
    `insert into ${schema}.members (id, cluster, ttl, data)
     select gen_random_uuid(), $1, '1 day', convert_to(repeat('x', $3), 'UTF8') from generate_series(1, $2)`,
    [cluster, count, bytes],
  )
}

/** A feed that has told all there is, and waits. */
async function waiting(cluster: PostgresCluster, since: string): Promise<AsyncIterableIterator<Change>> {
  const changes = cluster.watchChanges({ since })
  await cluster.getMembers({ fresh: true })
  const revision = cluster.snapshot?.revision ?? 0
  await take(changes, revision - Number(since.split('.')[0]))
  return changes
}

test('promise 4: changes of one statement that span pages are told once, to one who is slower than the writers', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  const cluster = openCluster({ schema, name })
  const changes = await waiting(cluster, BEGINNING)
  const first = changes.next()
  await typeMany(admin, name, 2_500)
  await admin.query(`update ${schema}.members set data = 'y' where cluster = $1`, [name])
  await first
  await admin.query(`delete from ${schema}.members where cluster = $1`, [name])
  const told = [(await first).value as Change, ...(await take(changes, 7_499))]
  const events = await eventsOf(admin, schema, name)
  expect(revisionsOf(told)).toEqual(events.map(({ revision }) => revision))
  expect(told.map(({ kind, member }) => [kind, member.id, member.token])).toEqual(
    events.map(({ kind, member, token }) => [kind, member, token]),
  )
  expect(
    new Set(told.slice(5_000).map(({ kind, reason, member }) => `${kind} ${reason} ${member.data}`)),
  ).toEqual(new Set(['left removed y']))
  // In the middle of a statement, too.
  const rest = cluster.watchChanges({ since: told[1_233]?.cursor ?? '' })
  expect(await take(rest, 6_266)).toEqual(told.slice(1_234))
})

test('promise 11: changes with megabytes of data come in pages, however many there are', async () => {
  const admin = await openAdmin()
  const proxy = await openProxy()
  const name = uniqueName()
  const count = size(12, 4)
  await typeMany(admin, name, count, MIB)
  await admin.query(`delete from ${schema}.members where cluster = $1`, [name])
  const cluster = openCluster({ schema, name, connection: proxy.throughIt, listenConnection: false })
  const reads = countOf(proxy, 'feed')
  const changes = cluster.watchChanges({ since: BEGINNING })
  const told = await take(changes, 1)
  const before = reads()
  told.push(...(await take(changes, 2 * count - 1)))
  expect(revisionsOf(told)).toEqual(upTo(2 * count))
  expect(told.map(({ member }) => member.data.length)).toEqual(told.map(() => MIB))
  // Each page has one of them.
  expect(reads()).toBe(before + 2 * count - 1)
})

test('promise 9: without LISTEN a feed is woken by polls', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  const cluster = openCluster({ schema, name, listenConnection: false, pollMs: 100 })
  const changes = await waiting(cluster, BEGINNING)
  const next = take(changes, 2)
  await typeMembers(admin, schema, name, ['one', 'two'])
  expect((await next).map(({ member }) => member.data)).toEqual(['one', 'two'])
})

test('promise 2: an outage in the middle of a feed costs and repeats nothing', async () => {
  const admin = await openAdmin()
  const proxy = await openProxy()
  const name = uniqueName()
  await typeMany(admin, name, 3_000)
  const cluster = openCluster({ schema, name, connection: proxy.throughIt, pollMs: 200, ttlMs: 2_000 })
  const changes = cluster.watchChanges({ since: BEGINNING })
  const told = await take(changes, 2_000)
  await proxy.cut()
  const rest = take(changes, 1_003)
  await typeMembers(admin, schema, name, ['a', 'b'])
  await until(() => cluster.status.lastError, { message: 'the trouble shows' })
  await proxy.restore()
  await until(() => cluster.status.mode !== 'disconnected', { message: 'it is back' })
  // Frozen: no answer comes, and no error.
  proxy.freeze()
  await typeMembers(admin, schema, name, ['c'])
  await until(() => cluster.status.lastError, { message: 'the silence shows' })
  proxy.thaw()
  told.push(...(await rest))
  expect(revisionsOf(told)).toEqual(upTo(3_003))
  await until(() => cluster.status.lastError === undefined, { message: 'no trouble is left' })
})

test('promise 12: a feed that ends while the database is away leaves no trouble behind', async () => {
  const proxy = await openProxy()
  const name = uniqueName()
  const cluster = openCluster({
    schema,
    name,
    connection: proxy.throughIt,
    pollMs: 60_000,
    listenConnection: false,
  })
  await cluster.getMembers()
  await proxy.cut()
  const controller = new AbortController()
  const pending = cluster.watchChanges({ since: BEGINNING, signal: controller.signal }).next()
  await until(() => cluster.status.lastError, { message: 'the trouble shows' })
  controller.abort()
  expect(await pending).toEqual({ done: true, value: undefined })
  await proxy.restore()
  await cluster.getMembers({ fresh: true })
  expect(cluster.status.lastError).toBeUndefined()
})

test('contract: where the log was trimmed beyond the cursor, a feed says so, and a fresh snapshot leads on', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  const cluster = openCluster({ schema, name })
  const membership = await joined(cluster, { data: '0' })
  const since = cluster.snapshot?.cursor ?? ''
  for (let n = 1; n < 5; n++) await membership.setData(String(n))
  const last = cluster.snapshot?.cursor ?? ''
  await admin.query(`select ${schema}.trim_events('0 s')`)
  const error: unknown = await cluster
    .watchChanges({ since })
    .next()
    .catch((thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(CompactedError)
  expect(String(error)).toContain('log no longer has all that follows')
  await expect(cluster.watchChanges({ since: BEGINNING }).next()).rejects.toThrow(CompactedError)
  await cluster.getMembers({ fresh: true })
  expect(cluster.snapshot?.cursor).toBe(last)
  const changes = cluster.watchChanges({ since: last })
  const next = take(changes, 1)
  await membership.setData('5')
  expect((await next)[0]?.member.data).toBe('5')
})

test('contract: a cursor whose own event was trimmed is good while at most one change came since', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  const cluster = openCluster({ schema, name })
  const membership = await joined(cluster, { data: '0' })
  await membership.deregister()
  const since = cluster.snapshot?.cursor ?? ''
  // A departure is kept for 20 seconds in any case.
  await admin.query(`update ${schema}.events set at = at - interval '20 s' where cluster = $1`, [name])
  await admin.query(`select ${schema}.trim_events('0 s')`)
  await membership.register()
  expect(revisionsOf(await take(cluster.watchChanges({ since }), 1))).toEqual([3])
  await membership.setData('x')
  await expect(cluster.watchChanges({ since }).next()).rejects.toThrow(CompactedError)
})

test.each([
  ['shorter', 2, []],
  ['of equal length', 2, ['another three']],
  ['longer', 1, ['2', '3', '4', '5']],
])(
  'contract: a history that was replaced by one that is %s ends a feed with a CompactedError',
  async (_, kept, instead) => {
    const admin = await openAdmin()
    const proxy = await openProxy()
    const name = uniqueName()
    await typeMembers(admin, schema, name, ['one', 'two', 'three'])
    const cluster = openCluster({ schema, name, connection: proxy.throughIt, pollMs: 200 })
    const changes = await waiting(cluster, BEGINNING)
    const since = cluster.snapshot?.cursor ?? ''
    const pending = changes.next().catch((error: unknown) => error)
    await proxy.cut()
    await loseCommits(admin, schema, name, kept)
    await typeMembers(admin, schema, name, instead)
    await proxy.restore()
    expect(await pending).toBeInstanceOf(CompactedError)
    expect(String(await pending)).toContain('history is not the one')
    await expect(openCluster({ schema, name }).watchChanges({ since }).next()).rejects.toThrow(CompactedError)
    await until(() => cluster.snapshot?.revision === kept + instead.length, { message: 'the reader follows' })
    const next = take(cluster.watchChanges({ since: cluster.snapshot?.cursor ?? '' }), 1)
    await typeMembers(admin, schema, name, ['after'])
    expect((await next)[0]?.member.data).toBe('after')
  },
)

test('contract: a cluster that was dropped and made anew has another history', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  await typeMembers(admin, schema, name, ['one'])
  const cluster = openCluster({ schema, name })
  await waiting(cluster, BEGINNING)
  const since = cluster.snapshot?.cursor ?? ''
  await admin.query(`delete from ${schema}.members where cluster = $1`, [name])
  await admin.query(`select ${schema}.drop_cluster($1)`, [name])
  const other = openCluster({ schema, name })
  await expect(other.watchChanges({ since }).next()).rejects.toThrow(CompactedError)
  await typeMembers(admin, schema, name, ['two'])
  await expect(other.watchChanges({ since }).next()).rejects.toThrow(CompactedError)
})

test('contract: a process that is killed goes on from the cursor that it stored', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  await typeMany(admin, name, 500)
  const child = fork(new URL('../support/feed-main.js', import.meta.url), [databaseUrl(), schema, name], {
    serialization: 'json',
  })
  const stored: Change[] = []
  await new Promise<void>((resolve) => {
    child.on('message', (change: Change) => {
      stored.push(change)
      if (stored.length === 200) {
        child.kill('SIGKILL')
        resolve()
      }
    })
  })
  await once(child, 'exit')
  const kept = stored.slice(0, 200)
  const cluster = openCluster({ schema, name })
  const rest = await take(cluster.watchChanges({ since: kept.at(-1)?.cursor ?? '' }), 300)
  expect(revisionsOf([...kept, ...rest])).toEqual(upTo(500))
})

test('promise 11: who uses no feed asks for none, and one that waits asks nothing', async () => {
  const proxy = await openProxy()
  const name = uniqueName()
  const asked = countOf(proxy, 'feed')
  const cluster = openCluster({ schema, name, connection: proxy.throughIt, pollMs: 100 })
  const membership = await joined(cluster)
  await membership.setData('x')
  await cluster.getMembers({ fresh: true })
  expect(asked()).toBe(0)
  const changes = await waiting(cluster, BEGINNING)
  const before = asked()
  expect(before).toBeGreaterThan(0)
  const next = take(changes, 1)
  const polls = countOf(proxy, 'changes', 'heartbeat')
  await until(() => polls() > 3, { message: 'it polls' })
  expect(asked()).toBe(before)
  await membership.setData('y')
  await next
  expect(asked()).toBe(before + 1)
})

test('promise 2: wherever the connection breaks while the log is read, nothing is skipped or told twice', async () => {
  const admin = await openAdmin()
  const proxy = await openProxy()
  const name = uniqueName()
  await typeMembers(admin, schema, name, ['one', 'two', 'three'])
  const cluster = openCluster({ schema, name, connection: proxy.throughIt })
  await cluster.getMembers()
  const act = async (): Promise<number[]> =>
    revisionsOf(await take(cluster.watchChanges({ since: BEGINNING }), 3))
  // From here on it is prepared.
  await act()
  for (const place of await placesOf(proxy, 'feed', act)) {
    expect(await broken(proxy, 'feed', place, act), place.where).toEqual(upTo(3))
  }
})

test('promise 15: a reader may follow the changes, and who may not read is told so', async () => {
  const name = uniqueName()
  const admin = await openAdmin()
  await typeMembers(admin, roles.schema, name, ['one'])
  const reader = openCluster({ schema: roles.schema, name, connection: roles.urlOf('reader') })
  const changes = reader.watchChanges({ since: BEGINNING })
  expect((await take(changes, 1))[0]?.member.data).toBe('one')
  const next = take(changes, 1)
  await typeMembers(admin, roles.schema, name, ['two'])
  expect((await next)[0]?.member.data).toBe('two')
  const nobody = openCluster({ schema: roles.schema, name, connection: roles.urlOf('nobody') })
  await expect(nobody.watchChanges().next()).rejects.toThrow(SchemaError)
})

test('promise 12: feeds that race with close() end, whatever they were doing', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  await typeMany(admin, name, 50)
  for (let turns = 0; turns < 30; turns += size(1, 3)) {
    const cluster = openCluster({ schema, name })
    const told: number[] = []
    const loops = [BEGINNING, BEGINNING, undefined].map(async (since) => {
      for await (const { revision } of cluster.watchChanges(since === undefined ? {} : { since }))
        told.push(revision)
    })
    for (let n = 0; n < turns; n++) await new Promise((resolve) => setImmediate(resolve))
    await cluster.close()
    await Promise.all(loops)
  }
})
