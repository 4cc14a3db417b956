import diagnostics from 'node:diagnostics_channel'
import { migrate } from 'pg-membership'
import { expect, onTestFinished, test } from 'vitest'
import { freshSchema, uniqueName } from '../support/database.js'
import { silence, storyOf, tableOf, typeMembers } from '../support/event-log.js'
import { joined, openAdmin, openCluster, openServer } from '../support/opened.js'
import { until } from '../support/until.js'

interface Beat {
  readonly cluster: string
  readonly registrations: number
}

test('promise 5: heartbeats raise no revision, write no event and send no notification', async () => {
  const schema = await freshSchema()
  const admin = await openAdmin()
  const name = uniqueName()
  const cluster = openCluster({ schema, name, ttlMs: 1_000, heartbeatMs: 100 })
  for (let n = 0; n < 3; n++) await joined(cluster)

  const { rows } = await admin.query<{ channel: string }>(
    `select channel from ${schema}.clusters where name = $1`,
    [name],
  )
  const channel = rows[0]?.channel ?? ''
  const heard: (string | undefined)[] = []
  admin.on('notification', ({ payload }) => heard.push(payload))
  await admin.query(`listen ${channel}`)
  const before = await tableOf(admin, schema, name)
  const { snapshot } = cluster

  let beats = 0
  const count = (message: unknown): void => {
    if ((message as Beat).cluster === name) beats += (message as Beat).registrations
  }
  diagnostics.subscribe('pg-membership:heartbeat', count)
  onTestFinished(() => void diagnostics.unsubscribe('pg-membership:heartbeat', count))
  await until(() => beats >= 30, { message: 'ten heartbeats of three registrations' })

  // Notifications arrive in the order of their commits: what was sent before this would have come first.
  await admin.query(`select pg_notify($1, 'after the heartbeats')`, [channel])
  await until(() => heard.length > 0, { message: 'the barrier arrives' })
  expect(heard).toEqual(['after the heartbeats'])
  expect(await tableOf(admin, schema, name)).toEqual(before)
  expect(await storyOf(admin, schema, name)).toHaveLength(3)
  expect(cluster.snapshot).toBe(snapshot)
})

test('promise 5: no index names a column that heartbeats write', async () => {
  const schema = await freshSchema()
  const admin = await openAdmin()
  const { rows } = await admin.query<{ column: string }>(
    `select distinct a.attname as column from pg_index i
     join pg_attribute a on a.attrelid = i.indexrelid where i.indrelid = $1::regclass order by 1`,
    [`${schema}.members`],
  )
  expect(rows.map(({ column }) => column)).toEqual(['cluster', 'id', 'token'])
})

test('promise 5: every heartbeat is a HOT update, and the table does not grow', async () => {
  // A server of its own: whatever connects to it or vacuums may keep a dead row alive for a moment.
  const server = await openServer({ autovacuum: 'off' })
  await migrate({ connection: server.url })
  const admin = await openAdmin(server.url)
  await admin.query(
    `insert into pgmembership.members (id, cluster, data)
     select gen_random_uuid(), 'hot', convert_to(repeat('d', 100), 'UTF8') from generate_series(1, 100)`,
  )
  const size = async (): Promise<string> => {
    const { rows } = await admin.query<{ size: string }>(
      `select pg_total_relation_size('pgmembership.members') as size`,
    )
    return rows[0]?.size ?? ''
  }
  // They reach the statistics within about a second, if the session goes on asking.
  const writes = async (): Promise<{ inserts: number; updates: number; hot: number }> => {
    const { rows } = await admin.query<{ inserts: string; updates: string; hot: string }>(
      `select n_tup_ins as inserts, n_tup_upd as updates, n_tup_hot_upd as hot
       from pg_stat_user_tables where relname = 'members'`,
    )
    return { inserts: Number(rows[0]?.inserts), updates: Number(rows[0]?.updates), hot: Number(rows[0]?.hot) }
  }
  await admin.query('vacuum pgmembership.members')
  await until(async () => (await writes()).inserts >= 100, {
    message: 'the statistics of the inserts arrive',
  })
  const [sizeBefore, before] = [await size(), await writes()]
  for (let n = 0; n < 200; n++) {
    await admin.query(
      `select pgmembership.heartbeat('hot', array_agg(id), array_agg(token), 'nobody', 0) from pgmembership.members`,
    )
  }
  await until(async () => (await writes()).updates >= before.updates + 20_000, {
    message: 'the statistics of the heartbeats arrive',
  })
  const after = await writes()
  expect(after.updates - before.updates).toBe(20_000)
  expect(after.hot - before.hot).toBe(20_000)
  expect(await size()).toBe(sizeBefore)
})

test('promise 5: a heartbeat waits for no lock, and renews what is not locked', async () => {
  const schema = await freshSchema()
  const [admin, other] = [await openAdmin(), await openAdmin()]
  const name = uniqueName()
  const cluster = openCluster({ schema, name })
  const memberships = [await joined(cluster), await joined(cluster), await joined(cluster)]
  const ids = memberships.map(({ id }) => id)
  const tokens = memberships.map(({ lease }) => lease?.token)
  await other.query('begin')
  await other.query(`select from ${schema}.members where id = $1 for update`, [ids[1]])
  await other.query(`select from ${schema}.clusters where name = $1 for update`, [name])
  const { rows } = await admin.query(
    `select locked, missing from ${schema}.heartbeat($1, $2, $3, 'nobody', 0)`,
    [name, [...ids, '00000000-0000-4000-8000-000000000000'], [...tokens, 7]],
  )
  expect(JSON.stringify(rows)).toContain(ids[1])
  expect(JSON.stringify(rows)).toContain('00000000-0000-4000-8000-000000000000')
  expect(JSON.stringify(rows)).not.toContain(ids[0])
  await other.query('rollback')
})

const BEAT = `select coalesce(locked, '{}') as locked, coalesce(missing, '{}') as missing, revision::int
  from heartbeat($1, $2, $3, 'nobody', 0)`

/** Three members that are typed, so that no process renews them. */
async function typedScene() {
  const schema = await freshSchema()
  const [admin, locking, beating] = [await openAdmin(), await openAdmin(), await openAdmin()]
  for (const client of [admin, locking, beating]) await client.query(`set search_path = ${schema}`)
  const cluster = uniqueName()
  const ids = await typeMembers(admin, schema, cluster, ['one', 'two', 'three'])
  const { members, revision } = await tableOf(admin, schema, cluster)
  const tokens = members.map(({ token }) => token)
  const first = ids[0] ?? ''
  // An own lock_timeout of heartbeat() is a second: if it waited for a lock that stays, it would fail.
  const beat = async (): Promise<unknown> => (await beating.query(BEAT, [cluster, ids, tokens])).rows
  const held = async (): Promise<number> =>
    (await admin.query('select from held_heartbeats where cluster = $1', [cluster])).rowCount ?? 0
  return { schema, admin, locking, cluster, ids, tokens, first, revision, beat, held }
}

test.each([
  'select from members for key share',
  'select from members for share',
  'select from members for no key update',
  'select from members for update',
  'select from clusters for update',
  'select from events for update',
  'select from sweeps for update',
  'select from held_heartbeats for update',
  'delete from held_heartbeats',
  'update held_heartbeats set at = now()',
  'insert into held_heartbeats select cluster, id, token, now() from members',
  'select pg_advisory_lock_shared(1)',
])('promise 7: a heartbeat does not wait for %s', async (statement) => {
  const { admin, locking, cluster, ids, first, revision, beat, held } = await typedScene()
  await admin.query('select sweep($1)', [cluster])
  await locking.query('begin')
  await locking.query('select from members where id = $1 for update', [first])
  expect(await beat()).toEqual([{ locked: [first], missing: [], revision }])
  await locking.query('rollback')
  const [renewed, all] = [{ locked: [], missing: [], revision }, ids.toSorted()]
  expect(await beat()).toEqual([renewed])
  // The row of the held heartbeat is still there. Now one more transaction locks something, and another the members.
  await locking.query('begin')
  await locking.query(statement)
  const keepsMembers = /members for (?!key share)/.test(statement)
  const sorted = async (): Promise<unknown> => {
    const [answer] = (await beat()) as { locked: string[] }[]
    return { ...answer, locked: answer?.locked.toSorted() }
  }
  expect(await sorted()).toEqual(keepsMembers ? { ...renewed, locked: all } : renewed)
  if (!keepsMembers) {
    await admin.query('begin')
    await admin.query('select from members for share')
    for (let n = 0; n < 20; n++) expect(await sorted()).toEqual({ ...renewed, locked: all })
    await admin.query('rollback')
  }
  await locking.query('rollback')
  expect(await held(), 'one row for each, and one more for each that was locked').toBeLessThanOrEqual(6)
})

test('promise 7: a sweep that stays open after it has tidied up held heartbeats silences nobody', async () => {
  const { admin, locking, cluster, first, revision, beat, held } = await typedScene()
  await locking.query('begin')
  await locking.query('select from members where id = $1 for update', [first])
  await beat()
  await locking.query('rollback')
  await beat()
  expect(await held()).toBe(1)
  // A reader's, or one with a slow cascade.
  await locking.query('begin')
  await locking.query('select sweep($1)', [cluster])
  await admin.query('begin')
  await admin.query('select from members where id = $1 for update', [first])
  for (let n = 0; n < 20; n++) expect(await beat()).toEqual([{ locked: [first], missing: [], revision }])
  await admin.query('commit')
  await locking.query('commit')
  expect(await held(), 'however many heartbeats were held meanwhile').toBe(1)
  await beat()
  await locking.query('select sweep($1)', [cluster])
  expect(await held()).toBe(0)
})

test('promise 7: a member that is overdue by its row alone, because somebody holds that, is shown with the age of its last heartbeat', async () => {
  const { schema, admin, locking, cluster, ids, first, beat } = await typedScene()
  await silence(admin, schema, cluster, ids)
  const silent = async (): Promise<unknown> =>
    (await admin.query('select id from members_now where cluster = $1 and silent_for > ttl', [cluster])).rows
  expect(await silent()).toHaveLength(3)
  await locking.query('begin')
  await locking.query('select from members where id = $1 for share', [first])
  await beat()
  expect(await silent()).toEqual([])
  const { rows } = await admin.query(
    "select silent_for < interval '5 s' as fresh, clock_timestamp() - heartbeat_at < interval '5 s' as same from members_now where id = $1",
    [first],
  )
  expect(rows).toEqual([{ fresh: true, same: true }])
  await locking.query('rollback')
})
