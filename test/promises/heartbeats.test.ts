import diagnostics from 'node:diagnostics_channel'
import { migrate } from 'pg-membership'
import { expect, onTestFinished, test } from 'vitest'
import { freshSchema, uniqueName } from '../support/database.js'
import { storyOf, tableOf } from '../support/event-log.js'
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
