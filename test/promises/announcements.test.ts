/** Members are told of a change without asking, and believe nothing that is not a right announcement. */
import { createHmac } from 'node:crypto'
import type { Member, PostgresCluster } from 'pg-membership'
import { expect, onTestFinished, test } from 'vitest'
import { type AdminClient, databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { expectWholeLog, tableOf, typeMembers } from '../support/event-log.js'
import { joined, openAdmin, openCluster, openProxy, openServer } from '../support/opened.js'
import { until } from '../support/until.js'
import { countOf } from '../support/wire.js'

const schema = await freshSchema()
const NEVER_MS = 600_000
/** Nothing is found by itself: what shows was announced. */
const DEAF_TO_ALL_ELSE = { ttlMs: NEVER_MS, heartbeatMs: NEVER_MS / 2, pollMs: NEVER_MS } as const

/** In one statement. */
const INSERT = `insert into ${schema}.members (id, cluster, data)
  select gen_random_uuid(), $1, convert_to(data, 'UTF8') from unnest($2::text[]) data`

interface Channel {
  readonly name: string
  readonly key: Buffer
}

interface Scene {
  readonly admin: AdminClient
  readonly name: string
  readonly cluster: PostgresCluster
  readonly channel: Channel
  /** What was announced so far, as anybody hears it who knows the channel. */
  readonly payloads: string[]
  /** How often it has read since. */
  readonly reads: () => number
}

async function channelOf(admin: AdminClient, cluster: string): Promise<Channel> {
  const { rows } = await admin.query<Channel>(`select * from ${schema}.members_channel($1)`, [cluster])
  if (!rows[0]) throw new Error('no channel')
  return rows[0]
}

/** A process that has seen `data`, listens, and would not look by itself. */
async function openScene(data: readonly string[] = ['one', 'two']): Promise<Scene> {
  const [admin, ear, proxy, name] = [await openAdmin(), await openAdmin(), await openProxy(), uniqueName()]
  if (data.length > 0) await typeMembers(admin, schema, name, data)
  const channel = await channelOf(admin, name)
  const payloads: string[] = []
  ear.on('notification', ({ payload }) => payloads.push(payload ?? ''))
  await ear.query(`listen ${channel.name}`)
  const cluster = await openListening(proxy, name)
  const reads = countOf(proxy, 'changes', 'members')
  return { admin, name, cluster, channel, payloads, reads }
}

/** Its queries go through the proxy, and its listener past it. */
async function openListening(
  { throughIt }: { readonly throughIt: string },
  name: string,
): Promise<PostgresCluster> {
  const cluster = openCluster({
    schema,
    name,
    connection: throughIt,
    listenConnection: databaseUrl(),
    ...DEAF_TO_ALL_ELSE,
  })
  await cluster.getMembers()
  await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
  await cluster.getMembers({ fresh: true })
  return cluster
}

function signed({ key }: Channel, body: string): string {
  return `${createHmac('sha256', key).update(body).digest('hex')}\n${body}`
}

/** Everything that is watched, from now on. */
function follow(cluster: PostgresCluster): (readonly Member[])[] {
  const seen: (readonly Member[])[] = []
  void (async () => {
    for await (const members of cluster.watchMembers()) seen.push(members)
  })()
  return seen
}

async function shownAs({ admin, name, cluster }: Scene): Promise<void> {
  const table = await tableOf(admin, schema, name)
  await until(() => cluster.snapshot?.revision === table.revision, { message: `revision ${table.revision}` })
  expect(cluster.snapshot).toMatchObject(table)
}

test('promise 2: whatever is done by hand or by calls is announced, and looks as if it had been read', async () => {
  const scene = await openScene()
  const { admin, name, cluster, reads } = scene
  const data = ['', 'Ω🐘\n\u0000"\\', ' spaces ', 'x'.repeat(5_000)]
  await typeMembers(admin, schema, name, data)
  await shownAs(scene)
  await admin.query(`update ${schema}.members set data = data || 'more' where cluster = $1`, [name])
  await shownAs(scene)
  await admin.query(`delete from ${schema}.members where cluster = $1 and data = 'more'`, [name])
  await shownAs(scene)
  const another = openCluster({ schema, name })
  const membership = await joined(another, { data: 'another' })
  await membership.setData('changed')
  await shownAs(scene)
  await membership.deregister()
  await shownAs(scene)
  expect(reads()).toBe(0)
  const announced = cluster.snapshot?.members
  const reader = openCluster({ schema, name })
  expect(await reader.getMembers()).toEqual(announced)
  for (const member of announced ?? []) expect(Object.isFrozen(member)).toBe(true)
})

test('promise 2: what does not fit into announcements is looked for', async () => {
  const scene = await openScene()
  const { admin, name, reads } = scene
  // A thousand changes in one statement: those of 300 characters are more than 100,000.
  const many = Array.from({ length: 1_000 }, (_, n) => `${n}${'z'.repeat(300)}`)
  for (const data of [['x'.repeat(6_000)], ['y'.repeat(1_048_576)], many]) {
    // Whatever was asked for before has been read.
    await scene.cluster.getMembers({ fresh: true })
    const before = reads()
    await admin.query(INSERT, [name, data])
    await shownAs(scene)
    expect(reads(), `${data.length} of ${data[0]?.length ?? 0}`).toBeGreaterThan(before)
  }
  await typeMembers(admin, schema, name, ['small'])
  await shownAs(scene)
  // Of the first three only where they led.
  await until(() => scene.payloads.length === 4, { message: 'four announcements' })
  expect(scene.payloads.every((payload) => payload.length < 8_000)).toBe(true)
})

test('promise 4: a transaction is shown whole, however many statements, rows and clusters it has', async () => {
  const scene = await openScene()
  const { admin, name, cluster, payloads, reads } = scene
  const watched = follow(cluster)
  await until(() => watched.length === 1, { message: 'it watches' })
  await admin.query('begin')
  await typeMembers(admin, schema, name, ['a', 'b'])
  await admin.query(`update ${schema}.members set data = 'c' where cluster = $1 and data = 'a'`, [name])
  await typeMembers(admin, schema, uniqueName(), ['elsewhere'])
  await admin.query(`delete from ${schema}.members where cluster = $1 and data = 'b'`, [name])
  await typeMembers(
    admin,
    schema,
    name,
    Array.from({ length: 200 }, (_, n) => `many ${n}`),
  )
  await admin.query('commit')
  await shownAs(scene)
  await until(() => watched.length > 1, { message: 'it is told' })
  expect(watched.map((members) => members.length)).toEqual([2, 203])
  await until(() => payloads.length > 5, { message: 'several announcements' })

  const before = payloads.length
  // Each row advances the cluster by itself.
  await admin.query(`update ${schema}.members set data = data || '!' where cluster = $1`, [name])
  await shownAs(scene)
  await until(() => payloads.length >= before + 203, { message: 'one for each' })
  expect(watched.map((members) => members.length)).toEqual([2, 203, 203])
  expect(reads()).toBe(0)
  await expectWholeLog(admin, schema, name)
})

test('promise 10: what was forged, replayed, cut, or sent in another order changes nothing, and costs nothing', async () => {
  const scene = await openScene()
  const { admin, name, cluster, channel, payloads, reads } = scene
  await typeMembers(admin, schema, name, ['three'])
  await typeMembers(admin, schema, name, ['four'])
  await shownAs(scene)
  await until(() => payloads.length === 2, { message: 'two announcements' })
  const [third = '', fourth = ''] = payloads
  const { snapshot } = cluster
  const send = (payload: string) => admin.query('select pg_notify($1, $2)', [channel.name, payload])
  const another = signed({ ...channel, key: Buffer.alloc(32) }, fourth.slice(65))
  const tampered = fourth.replace(/ (\w+=*)$/, ` ${Buffer.from('evil').toString('base64')}`)
  expect(tampered).not.toBe(fourth)
  for (const payload of [
    '',
    'x'.repeat(7_999),
    '{{{',
    another,
    tampered,
    fourth.slice(0, -1),
    fourth.slice(65),
  ]) {
    await send(payload)
  }
  for (const payload of [fourth, third, third, fourth]) await send(payload)
  // From the past, and from a future that chains: both with the right code, from a server that is not H's.
  const elsewhere = fourth.slice(65).replace(/^(\S+) (\S+) (\d+) (\S+) (\d+) (\S+) /, '$1 1.0 $5 $6 5 $4 ')
  await send(signed(channel, elsewhere.replace(/ 4 4\n/, ' 5 5\n')))
  await typeMembers(admin, schema, name, ['five'])
  await shownAs(scene)
  expect(cluster.snapshot?.revision).toBe((snapshot?.revision ?? 0) + 1)
  expect(reads()).toBe(0)
})

test('promise 3: announcements that come late, or twice, or not at all, take nothing back', async () => {
  const [admin, name] = [await openAdmin(), uniqueName()]
  const ears = await openProxy()
  await typeMembers(admin, schema, name, ['one'])
  const cluster = openCluster({
    schema,
    name,
    listenConnection: ears.throughIt,
    ttlMs: 60_000,
    heartbeatMs: 60_000 / 2,
    pollMs: 300,
  })
  await cluster.getMembers()
  await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
  const revisions: number[] = []
  const watched = (async () => {
    for await (const members of cluster.watchMembers()) {
      revisions.push(members.length === 0 ? 0 : (cluster.snapshot?.revision ?? 0))
    }
  })()
  ears.freeze({ direction: 'toClient' })
  for (const data of ['two', 'three', 'four']) {
    await typeMembers(admin, schema, name, [data])
    const { revision } = await tableOf(admin, schema, name)
    await until(() => cluster.snapshot?.revision === revision, { message: 'the poll finds it' })
  }
  await typeMembers(admin, schema, name, ['five'])
  ears.thaw()
  await until(() => cluster.snapshot?.revision === 5, { message: 'all shows' })
  await typeMembers(admin, schema, name, ['six'])
  await until(() => cluster.snapshot?.revision === 6, { message: 'the next one' })
  expect(cluster.snapshot).toMatchObject(await tableOf(admin, schema, name))
  await cluster.close()
  await watched
  expect(revisions).toEqual(revisions.toSorted((a, b) => a - b))
  expect(cluster.status.lastError).toBeUndefined()
})

test('promise 3: a refresh that announcements have overtaken takes nothing back', async () => {
  const [admin, proxy, name] = [await openAdmin(), await openProxy(), uniqueName()]
  await typeMembers(admin, schema, name, ['one'])
  const cluster = await openListening(proxy, name)
  const revisions: number[] = []
  void (async () => {
    for await (const members of cluster.watchMembers()) revisions.push(members.length)
  })()
  // It begins at the first member, is executed with two, and answered with three.
  void proxy.holdOnce(({ sent }) => sent.includes('changes'), 60_000)
  const fresh = cluster.getMembers({ fresh: true })
  await typeMembers(admin, schema, name, ['two'])
  await until(() => cluster.snapshot?.revision === 2, { message: 'the second is announced' })
  const { rows } = await admin.query<{ now: string }>('select clock_timestamp()::text as now')
  proxy.freeze({ direction: 'toClient' })
  proxy.holdNoMore()
  const executed = `select from pg_stat_activity where query_start > $1 and state = 'idle'
    and query like '%-- changes%' and query like $2`
  await until(async () => (await admin.query(executed, [rows[0]?.now, `%"${schema}"%`])).rowCount, {
    message: 'the server has answered',
  })
  await typeMembers(admin, schema, name, ['three'])
  await until(() => cluster.snapshot?.revision === 3, { message: 'the third is announced' })
  const { snapshot } = cluster
  proxy.thaw()
  expect(await fresh).toHaveLength(3)
  expect(cluster.snapshot).toBe(snapshot)
  expect(revisions).toEqual([1, 2, 3])
})

test('promises 1 and 3: hundreds of changes by several processes at once, announced and answered, all show in order', async () => {
  const [admin, name] = [await openAdmin(), uniqueName()]
  const clusters = Array.from({ length: 4 }, () => openCluster({ schema, name }))
  const revisions = clusters.map(() => [0])
  for (const [n, cluster] of clusters.entries()) {
    await cluster.getMembers()
    void (async () => {
      for await (const members of cluster.watchMembers()) {
        if (members.length > 0) revisions[n]?.push(cluster.snapshot?.revision ?? 0)
      }
    })()
  }
  await until(() => clusters.every(({ status }) => status.mode === 'listening'), { message: 'all listen' })
  await Promise.all(
    clusters.map(async (cluster) => {
      for (let n = 0; n < 20; n++) {
        const membership = cluster.createMembership({ data: 'new' })
        const lease = await membership.register()
        expect(cluster.snapshot?.get(membership.id)).toMatchObject({ token: lease.token, data: 'new' })
        await membership.setData('changed')
        expect(cluster.snapshot?.get(membership.id)?.data).toBe('changed')
        if (n % 2 === 1) continue
        await membership.deregister()
        expect(cluster.snapshot?.get(membership.id)).toBeUndefined()
      }
    }),
  )
  const table = await tableOf(admin, schema, name)
  await until(() => clusters.every(({ snapshot }) => snapshot?.revision === table.revision), {
    message: 'all are there',
  })
  for (const { snapshot } of clusters) expect(snapshot).toMatchObject(table)
  for (const some of revisions) expect(some).toEqual(some.toSorted((a, b) => a - b))
  await expectWholeLog(admin, schema, name)
})

test('promise 9: while the notification queue is nearly full, nothing fails, and heartbeats tell', async () => {
  // Two megabytes instead of eight gigabytes.
  const server = await openServer({ max_notify_queue_pages: '256' })
  const { migrate } = await import('pg-membership')
  await migrate({ connection: server.url, schema })
  const [admin, sleeper] = [await openAdmin(server.url), await openAdmin(server.url)]
  const name = uniqueName()
  const beating = { ttlMs: 3_000, heartbeatMs: 300, pollMs: NEVER_MS }
  const cluster = openCluster({ schema, name, connection: server.url, ...beating })
  await joined(cluster, { data: 'own' })
  await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
  // Who listens and stays in a transaction keeps the queue from being emptied.
  await sleeper.query('listen rubbish')
  await sleeper.query('begin')
  const usage = async (): Promise<number> => {
    const { rows } = await admin.query<{ usage: number }>('select pg_notification_queue_usage() as usage')
    return rows[0]?.usage ?? 0
  }
  const rubbish = `select pg_notify('rubbish', repeat(n::text, 1000)) from generate_series(1000, 1009) n`
  while ((await usage()) < 0.9) await admin.query(rubbish)
  // Until nothing more fits: whoever notified now would fail.
  const fill = async (): Promise<never> => {
    for (;;) await admin.query(rubbish)
  }
  await expect(fill()).rejects.toThrow('too many notifications')
  await typeMembers(admin, schema, name, ['other'])
  const membership = await joined(openCluster({ schema, name, connection: server.url, ttlMs: 3_000 }))
  await membership.setData('another')
  // Nothing else looks.
  await until(() => cluster.snapshot?.revision === 4, { message: 'a heartbeat finds it' })
  expect(cluster.snapshot).toMatchObject(await tableOf(admin, schema, name))
  await sleeper.query('rollback')
})

test('promise 15: the name of the channel is not to be seen where its listener is, and the key nowhere', async () => {
  const [admin, name] = [await openAdmin(), uniqueName()]
  const cluster = openCluster({ schema, name })
  await joined(cluster)
  await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
  const channel = await channelOf(admin, name)
  const { rows } = await admin.query<{ query: string }>(
    `select query from pg_stat_activity where pid <> pg_backend_pid()`,
  )
  expect(rows.length).toBeGreaterThan(2)
  for (const { query } of rows) {
    expect(query).not.toContain(channel.name)
    expect(query).not.toContain(channel.key.toString('hex'))
  }
})

test('promise 15: when the owner has renewed the channel, members go over to the new one by themselves', async () => {
  const [admin, proxy, name] = [await openAdmin(), await openProxy(), uniqueName()]
  const cluster = openCluster({
    ...{ schema, name, connection: proxy.throughIt, listenConnection: databaseUrl() },
    ...{ ttlMs: 3_000, heartbeatMs: 300, pollMs: 300 },
  })
  await joined(cluster, { data: 'own' })
  await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
  const reads = countOf(proxy, 'changes', 'members')
  const before = await channelOf(admin, name)
  await admin.query(`select ${schema}.renew_members_channel($1)`, [name])
  const after = await channelOf(admin, name)
  expect(after.name).not.toBe(before.name)
  expect(after.key).not.toEqual(before.key)
  const heard: string[] = []
  const ear = await openAdmin()
  ear.on('notification', ({ channel }) => heard.push(channel))
  await ear.query(`listen ${before.name}; listen ${after.name}`)
  onTestFinished(() => void ear.removeAllListeners('notification'))

  await typeMembers(admin, schema, name, ['found by a heartbeat'])
  await until(() => cluster.snapshot?.revision === 2, { message: 'it shows' })
  // Who listens to the new channel is found out by those who can see it: the statement before the last.
  let revision = 2
  const isAnnounced = async (): Promise<boolean> => {
    const before = reads()
    await typeMembers(admin, schema, name, [`change ${revision}`])
    revision += 1
    await until(() => cluster.snapshot?.revision === revision, { message: 'it shows' })
    return reads() === before
  }
  await until(isAnnounced, { withinMs: 20_000, message: 'a change shows, and nothing was read for it' })
  expect(new Set(heard)).toEqual(new Set([after.name]))
})

test('promise 9: no transaction fails because it announces more than the smallest queue of notifications holds', async () => {
  const server = await openServer({ max_notify_queue_pages: '64' })
  const { migrate } = await import('pg-membership')
  await migrate({ connection: server.url, schema })
  const admin = await openAdmin(server.url)
  const names = Array.from({ length: 8 }, () => uniqueName())
  const [name = ''] = names
  const many = Array.from({ length: 200 }, (_, n) => `${n} ${'x'.repeat(5_000)}`)
  for (const each of names) {
    await admin.query(`select ${schema}.members_channel($1)`, [each])
    for (const part of [0, 50, 100, 150]) await typeMembers(admin, schema, each, many.slice(part, part + 50))
  }
  const cluster = openCluster({ schema, name, connection: server.url, ...DEAF_TO_ALL_ELSE })
  await cluster.getMembers()
  await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
  const shows = async (): Promise<void> => {
    const table = await tableOf(admin, schema, name)
    await until(() => cluster.snapshot?.revision === table.revision, {
      message: `revision ${table.revision}`,
    })
    expect(cluster.snapshot).toMatchObject(table)
  }
  const change = `update ${schema}.members set data = data || 'y' where cluster = $1`
  await admin.query(change, [name])
  await shows()
  // Over several clusters, statements and savepoints; some told before the end.
  await admin.query('begin')
  for (const [n, each] of names.toReversed().entries()) {
    await admin.query(`savepoint inner_one`)
    await admin.query(change, [each])
    if (n % 3 === 1) await admin.query('rollback to savepoint inner_one')
    if (n % 3 === 2) await admin.query('set constraints all immediate; set constraints all deferred')
  }
  await admin.query('commit')
  await shows()
  // What is small is announced again, and a member with 5,000 of them waits for nothing.
  await admin.query(
    `insert into ${schema}.members (id, cluster) select gen_random_uuid(), $1 from generate_series(1, 900)`,
    [name],
  )
  await admin.query(`update ${schema}.members set data = 'small' where cluster = $1`, [name])
  await shows()
  // What somebody sets by himself concerns only his own announcements.
  for (const value of ['rubbish', '-1', '', '1 99999999999999999999', '0 0']) {
    await admin.query(`select set_config('pgmembership.announced', $1, false)`, [value])
    await admin.query(
      `update ${schema}.members set data = $2 where id = any (array(
      select id from ${schema}.members where cluster = $1 limit 1))`,
      [name, value],
    )
    await shows()
  }
})
