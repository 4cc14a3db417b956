import diagnostics from 'node:diagnostics_channel'
import type { Member, PostgresCluster } from 'pg-membership'
import { expect, onTestFinished, test } from 'vitest'
import { freshSchema, uniqueName } from '../support/database.js'
import { tableOf, typeMembers } from '../support/event-log.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import { until } from '../support/until.js'

const schema = await freshSchema()

interface Refreshed {
  readonly cluster: string
  readonly revision: number
  readonly full: boolean
}

/** How this process's readers of a cluster came by their snapshots. */
function refreshesOf(name: string): Refreshed[] {
  const seen: Refreshed[] = []
  const note = (message: unknown): void => {
    if ((message as Refreshed).cluster === name) seen.push(message as Refreshed)
  }
  diagnostics.subscribe('pg-membership:snapshot', note)
  onTestFinished(() => void diagnostics.unsubscribe('pg-membership:snapshot', note))
  return seen
}

function dataOf(members: readonly Member[] | undefined): string[] {
  return (members ?? []).map(({ data }) => data)
}

async function shows(cluster: PostgresCluster, data: readonly string[], withinMs = 10_000): Promise<void> {
  await until(() => dataOf(cluster.snapshot?.members).join() === data.join(), {
    withinMs,
    message: () => `${dataOf(cluster.snapshot?.members).join()} becomes ${data.join()}`,
  })
}

test('promise 1: own writes are shown where nobody listens, polls or beats', async () => {
  const never = { ttlMs: 600_000, heartbeatMs: 300_000, pollMs: 300_000 }
  const cluster = openCluster({ schema, name: uniqueName(), listenConnection: false, ...never })
  const membership = cluster.createMembership({ data: 'one' })
  expect(dataOf(await cluster.getMembers())).toEqual([])
  await membership.register()
  expect(dataOf(cluster.snapshot?.members)).toEqual(['one'])
  await membership.setData('two')
  expect(dataOf(cluster.snapshot?.members)).toEqual(['two'])
  await membership.deregister()
  expect(dataOf(cluster.snapshot?.members)).toEqual([])
})

test('promise 1: a fresh read does not join a refresh that has begun before', async () => {
  const admin = await openAdmin()
  const proxy = await openProxy()
  const name = uniqueName()
  const cluster = openCluster({
    schema,
    name,
    connection: proxy.throughIt,
    listenConnection: false,
    ttlMs: 60_000,
  })
  await cluster.getMembers()
  proxy.freeze({ direction: 'toClient' })
  const { rows } = await admin.query<{ now: Date }>('select clock_timestamp() as now')
  const early = cluster.getMembers({ fresh: true })
  await until(
    async () => {
      const { rowCount } = await admin.query(
        `select from pg_stat_activity where state = 'idle' and query_start > $1 and query like '%' || $2 || '%'
         and application_name like 'pg-membership %'`,
        [rows[0]?.now, `"${schema}"."events"`],
      )
      return rowCount === 1
    },
    { message: 'the server has answered the first read' },
  )
  await typeMembers(admin, schema, name, ['after'])
  const late = cluster.getMembers({ fresh: true })
  proxy.thaw()
  await early
  expect(dataOf(await late)).toEqual(['after'])
})

test('promise 2: a reader that was away for a few changes reads only those', async () => {
  const admin = await openAdmin()
  const proxy = await openProxy()
  const name = uniqueName()
  await typeMembers(admin, schema, name, ['one', 'two'])
  const cluster = openCluster({ schema, name, connection: proxy.throughIt, pollMs: 500 })
  await cluster.getMembers()
  const refreshes = refreshesOf(name)
  await proxy.cut()
  await typeMembers(admin, schema, name, ['three', 'four', 'five'])
  await proxy.restore()
  await shows(cluster, ['one', 'two', 'three', 'four', 'five'])
  expect(refreshes.map(({ full }) => full)).toEqual([false])
})

test.each([
  ['all of it', 'true'],
  ['what the reader had seen', 'revision <= 3'],
  ['one change in the middle', 'revision = 6'],
  ['the last change', 'revision = 8'],
])(
  'promise 2: a reader that was away while the log was trimmed reads everything: %s',
  async (_what, which) => {
    const admin = await openAdmin()
    const proxy = await openProxy()
    const name = uniqueName()
    const ids = await typeMembers(admin, schema, name, ['one', 'two', 'three'])
    const cluster = openCluster({ schema, name, connection: proxy.throughIt, pollMs: 500 })
    const [one] = await cluster.getMembers()
    const refreshes = refreshesOf(name)
    await proxy.cut()
    await admin.query(`update ${schema}.members set data = 'TWO' where id = $1`, [ids[1]])
    await admin.query(`delete from ${schema}.members where id = $1`, [ids[2]])
    await typeMembers(admin, schema, name, ['four', 'five', 'six'])
    await admin.query(`delete from ${schema}.events where cluster = $1 and ${which}`, [name])
    await proxy.restore()
    await shows(cluster, ['one', 'TWO', 'four', 'five', 'six'])
    expect(refreshes.map(({ full }) => full)).toEqual([true])
    expect(cluster.snapshot?.members[0]).toBe(one)
    expect(cluster.snapshot).toMatchObject(await tableOf(admin, schema, name))
  },
)

test('promise 2: trim_events while readers come and go changes nothing that they see', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  const cluster = openCluster({ schema, name })
  const membership = await joined(cluster, { data: 'here' })
  for (let n = 0; n < 10; n++) {
    await membership.setData(String(n))
    await admin.query(`select ${schema}.trim_events('0 s')`)
    await typeMembers(admin, schema, name, ['guest'])
    await admin.query(`delete from ${schema}.members where cluster = $1 and data = 'guest'`, [name])
    expect(dataOf(await openCluster({ schema, name }).getMembers())).toEqual([String(n)])
  }
  await shows(cluster, ['9'])
  expect(cluster.snapshot?.members).toEqual((await tableOf(admin, schema, name)).members)
})

test('promise 2: a reader that was away for thousands of changes converges', async () => {
  const admin = await openAdmin()
  const proxy = await openProxy()
  const name = uniqueName()
  const cluster = openCluster({ schema, name, connection: proxy.throughIt, pollMs: 500 })
  await typeMembers(admin, schema, name, ['first'])
  await cluster.getMembers()
  await proxy.cut()
  await admin.query(
    `insert into ${schema}.members (id, cluster) select gen_random_uuid(), $1 from generate_series(1, 2000)`,
    [name],
  )
  await admin.query(`delete from ${schema}.members where cluster = $1 and token % 5 <> 0`, [name])
  await proxy.restore()
  const table = await tableOf(admin, schema, name)
  await until(() => cluster.snapshot?.revision === table.revision, { message: 'it catches up' })
  expect(cluster.snapshot?.members).toEqual(table.members)
})

test('promise 9: without LISTEN a change shows within one poll', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  const cluster = openCluster({ schema, name, listenConnection: false, pollMs: 200 })
  await cluster.getMembers()
  expect(cluster.status.mode).toBe('polling')
  await typeMembers(admin, schema, name, ['polled'])
  await shows(cluster, ['polled'], 2_000)
})

test('promise 9: without LISTEN a change shows within one heartbeat, however rare the polls are', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  const cluster = openCluster({
    schema,
    name,
    listenConnection: false,
    ttlMs: 2_000,
    heartbeatMs: 200,
    pollMs: 3_600_000,
  })
  await joined(cluster, { data: 'own' })
  await typeMembers(admin, schema, name, ['other'])
  await shows(cluster, ['own', 'other'], 2_000)
})

test('promise 9: what was missed while the listener was terminated is made up for', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  const cluster = openCluster({ schema, name, ttlMs: 600_000, heartbeatMs: 300_000, pollMs: 300_000 })
  await joined(cluster, { data: 'own' })
  await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
  for (let n = 1; n <= 3; n++) {
    // Its last statement is another one for a moment, when it has asked for its channel again.
    const terminate = `select pg_terminate_backend(a.pid) from pg_stat_activity a, ${schema}.members m
      where m.cluster = $1 and a.application_name = m.session and a.query ilike 'listen %'`
    await until(async () => (await admin.query(terminate, [name])).rowCount === 1, {
      message: 'a listener is found',
    })
    await typeMembers(admin, schema, name, [String(n)])
    await shows(cluster, ['own', ...Array.from({ length: n }, (_, i) => String(i + 1))])
    await until(() => cluster.status.mode === 'listening', { message: 'it listens again' })
  }
})

test('promise 9: a listener that has gone deaf is found out and replaced; until then heartbeats heal what it misses', async () => {
  const admin = await openAdmin()
  const proxy = await openProxy()
  const name = uniqueName()
  const cluster = openCluster({
    schema,
    name,
    listenConnection: proxy.throughIt,
    ttlMs: 2_000,
    heartbeatMs: 200,
    pollMs: 3_600_000,
  })
  await joined(cluster, { data: 'own' })
  await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
  proxy.freeze()
  await typeMembers(admin, schema, name, ['missed'])
  await shows(cluster, ['own', 'missed'], 2_000)
  await until(
    async () => {
      // What no hint has announced raises a doubt; a proof that is very fresh lays it.
      await admin.query(
        `update ${schema}.members set data = data || '!' where cluster = $1 and data like 'm%'`,
        [name],
      )
      return cluster.status.mode === 'polling'
    },
    { withinMs: 20_000, message: 'it knows that it is deaf' },
  )
  await admin.query(`update ${schema}.members set data = 'missed' where cluster = $1 and data like 'm%'`, [
    name,
  ])
  proxy.reset()
  proxy.thaw()
  await until(() => cluster.status.mode === 'listening', { message: 'it listens again' })
  await typeMembers(admin, schema, name, ['heard'])
  await shows(cluster, ['own', 'missed', 'heard'], 2_000)
}, 40_000)

test('promise 2: a log that tells what cannot be makes a reader read everything, once', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  const cluster = openCluster({ schema, name, pollMs: 300 })
  await joined(cluster, { data: 'here' })
  const refreshes = refreshesOf(name)
  // As an owner might, who has lost events to put back.
  await admin.query(
    `with head as (
       update ${schema}.clusters set revision = revision + 1, previous_stamp = stamp, stamp = gen_random_uuid() where name = $1 returning *
     )
     insert into ${schema}.events (cluster, revision, stamp, at, kind, reason, member, token, registered_at)
     select name, revision, stamp, now(), 'left', 'removed', gen_random_uuid(), last_token + 5, now() from head`,
    [name],
  )
  await until(() => refreshes.length > 0, { message: 'it reads' })
  await cluster.getMembers({ fresh: true })
  await typeMembers(admin, schema, name, ['next'])
  await shows(cluster, ['here', 'next'])
  expect(cluster.snapshot).toMatchObject(await tableOf(admin, schema, name))
  expect(refreshes.map(({ full }) => full)).toEqual([true, false])
})

test('promise 2: a second registration of a member that is there is not believed', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  const cluster = openCluster({ schema, name, pollMs: 300 })
  const membership = await joined(cluster, { data: 'here' })
  await admin.query(
    `with head as (
         update ${schema}.clusters set revision = revision + 1, previous_stamp = stamp, stamp = gen_random_uuid() where name = $1 returning *
       )
       insert into ${schema}.events (cluster, revision, stamp, at, kind, reason, member, token, registered_at, data)
       select name, revision, stamp, now(), 'joined', 'registered', $2, last_token + 5, now(), 'twice' from head`,
    [name, membership.id],
  )
  await until(() => cluster.snapshot?.revision === 2, { message: 'it reads' })
  expect(cluster.snapshot).toMatchObject(await tableOf(admin, schema, name))
})
