import { expect, test } from 'vitest'
import { type AdminClient, freshSchema, inOneRoundTrip, uniqueName } from '../support/database.js'
import { expectWholeLog, silence, storyOf, tableOf, typeMembers } from '../support/event-log.js'
import { joined, openAdmin, openCluster } from '../support/opened.js'
import { sweepsOf } from '../support/sweeps.js'
import { until } from '../support/until.js'

const schema = await freshSchema()
const members = `${schema}.members`
const sweeps = `${schema}.sweeps`

const { sweep, clusterWith, idsOf, sweepIdle } = sweepsOf(schema)

/** Of the last sweep: whether it took itself for the first after a break. */
async function hasResumed(admin: AdminClient, cluster: string): Promise<boolean> {
  const { rows } = await admin.query<{ resumed: boolean }>(
    `select resumed_at = swept_at as resumed from ${sweeps} where cluster = $1`,
    [cluster],
  )
  return rows[0]?.resumed ?? false
}

test('promise 6: a sweep removes who has been silent for its ttl, and nobody else, and says that they expired', async () => {
  const admin = await openAdmin()
  const { cluster, ids } = await clusterWith(admin, 3, 2)
  expect(await sweep(admin, cluster)).toMatchObject({ removed: 3, obstacles: null })
  expect(await idsOf(admin, cluster)).toEqual(ids.slice(3))
  const story = await storyOf(admin, schema, cluster)
  expect(story.slice(5)).toEqual(['left expired', 'left expired', 'left expired'])
  expect(await sweep(admin, cluster)).toMatchObject({ removed: 0 })
  await expectWholeLog(admin, schema, cluster)
})

test('promise 7: each member has its own ttl', async () => {
  const admin = await openAdmin()
  const { cluster, ids } = await clusterWith(admin, 0, 3)
  await admin.query(
    `update ${members} set heartbeat_at = clock_timestamp() - interval '20 s',
       ttl = case id when $1 then interval '19 s' when $2 then interval '25 s' else interval '1 day' end
     where cluster = $3`,
    [ids[0], ids[1], cluster],
  )
  await admin.query(
    `update ${sweeps} set resumed_at = clock_timestamp() - interval '1 day', swept_at = clock_timestamp() where cluster = $1`,
    [cluster],
  )
  expect((await sweep(admin, cluster)).removed).toBe(1)
  expect(await idsOf(admin, cluster)).toEqual(ids.slice(1))
})

test.each([
  [
    'when nobody has swept for a third of the shortest ttl',
    `swept_at = clock_timestamp() - interval '5.1 s'`,
  ],
  ['when the server was started meanwhile', `server_started_at = server_started_at - interval '1 s'`],
  ['when the clock of the server went back', `swept_at = clock_timestamp() + interval '1 hour'`],
])('promise 7: a late sweep expires nobody: %s', async (_reason, change) => {
  const admin = await openAdmin()
  const { cluster } = await clusterWith(admin, 2)
  await admin.query(`update ${sweeps} set ${change} where cluster = $1`, [cluster])
  expect((await sweep(admin, cluster)).removed).toBe(0)
  expect(await hasResumed(admin, cluster)).toBe(true)
  // Nor does the next one, until a whole ttl has passed since.
  expect((await sweep(admin, cluster)).removed).toBe(0)
  expect(await hasResumed(admin, cluster)).toBe(false)
  await admin.query(
    `update ${sweeps} set resumed_at = clock_timestamp() - interval '10 s', swept_at = clock_timestamp() where cluster = $1`,
    [cluster],
  )
  expect((await sweep(admin, cluster)).removed).toBe(0)
  await admin.query(
    `update ${sweeps} set resumed_at = clock_timestamp() - interval '15.1 s', swept_at = clock_timestamp() where cluster = $1`,
    [cluster],
  )
  expect((await sweep(admin, cluster)).removed).toBe(2)
})

test('promise 7: a late sweep expires nobody: when the server has lost its memory of the last one', async () => {
  const admin = await openAdmin()
  const { cluster } = await clusterWith(admin, 2)
  await admin.query(`delete from ${sweeps} where cluster = $1`, [cluster])
  expect((await sweep(admin, cluster)).removed).toBe(0)
  expect(await hasResumed(admin, cluster)).toBe(true)
  expect((await sweep(admin, cluster)).removed).toBe(0)
  await silence(admin, schema, cluster, [])
  expect((await sweep(admin, cluster)).removed).toBe(2)
})

test('promise 7: a member that registers after nobody was swept for long is not held to account for that', async () => {
  const admin = await openAdmin()
  const { cluster } = await clusterWith(admin, 0)
  await admin.query(`delete from ${members} where cluster = $1`, [cluster])
  await admin.query(
    `update ${sweeps} set swept_at = swept_at - interval '1 day', resumed_at = resumed_at - interval '2 days' where cluster = $1`,
    [cluster],
  )
  const [id = ''] = await typeMembers(admin, schema, cluster, ['late'])
  await admin.query(`update ${members} set heartbeat_at = heartbeat_at - interval '1 day' where id = $1`, [
    id,
  ])
  expect((await sweep(admin, cluster)).removed).toBe(0)
})

test('promise 6: a heartbeat from the future is brought back to the present, and keeps nobody for ever', async () => {
  const admin = await openAdmin()
  const { cluster, ids } = await clusterWith(admin, 0, 2)
  await admin.query(
    `update ${members} set heartbeat_at = clock_timestamp() + interval '1 year' where id = $1`,
    [ids[0]],
  )
  await sweep(admin, cluster)
  const { rows } = await admin.query<{ past: boolean }>(
    `select heartbeat_at <= clock_timestamp() as past from ${members} where cluster = $1`,
    [cluster],
  )
  expect(rows).toEqual([{ past: true }, { past: true }])
  expect(await tableOf(admin, schema, cluster)).toMatchObject({ revision: 2 })
})

test('promise 11: turns are handed out one pace after another, whoever asks', async () => {
  const admin = await openAdmin()
  const { cluster } = await clusterWith(admin, 0, 10)
  const sweeping = `select wait_ms from ${schema}.sweep('${cluster}')`
  const turn = `select round(extract(epoch from turn) * 1000)::float8 as at_ms from ${sweeps} where cluster = '${cluster}'`
  const answers = await inOneRoundTrip<{ wait_ms: number; at_ms: number }>(
    admin,
    Array.from({ length: 10 }, () => [sweeping, turn]).flat(),
  )
  for (let n = 0; n < 10; n++) {
    const [{ wait_ms } = { wait_ms: 0 }, { at_ms } = { at_ms: 0 }] = answers.slice(2 * n)
    if (n > 0) expect(at_ms - (answers[2 * n - 1]?.at_ms ?? 0)).toBe(500)
    expect(wait_ms).toBeGreaterThan(0)
    expect(wait_ms).toBeLessThanOrEqual(500 * (n + 2))
  }
  // A caller that ignores them pushes the others only so far: twice the members or all connections, and twenty.
  for (let n = 0; n < 500; n++) await sweep(admin, cluster)
  // Others come and go on this server.
  const count = 'select count(*)::integer as connections from pg_stat_activity'
  const [before, last, after] = await inOneRoundTrip<{ wait_ms: number; connections: number }>(admin, [
    ...[count, sweeping, count],
  ])
  const turns = 20 + Math.max(2 * 10, before?.connections ?? 0, after?.connections ?? 0) + 1
  expect(turns).toBeLessThan(500)
  expect(last?.wait_ms).toBeLessThanOrEqual(500 * turns)
})

test('promise 6: the pace follows from the shortest ttl', async () => {
  const admin = await openAdmin()
  const { cluster, ids } = await clusterWith(admin, 0, 2)
  await admin.query(`update ${members} set ttl = interval '1 s' where id = $1`, [ids[0]])
  await sweep(admin, cluster)
  const { rows } = await admin.query<{ ms: string }>(
    `select 1000 * extract(epoch from pace) as ms from ${sweeps} where cluster = $1`,
    [cluster],
  )
  expect(Number(rows[0]?.ms)).toBe(100)
})

test('promise 11: a sweep does not wait for another, nor for a locked member', async () => {
  const [admin, other] = [await openAdmin(), await openAdmin()]
  const { cluster, ids } = await clusterWith(admin, 2)
  await other.query('begin')
  await other.query(`select from ${sweeps} where cluster = $1 for update`, [cluster])
  expect(await sweep(admin, cluster)).toEqual({ wait_ms: 500, removed: 0, obstacles: null })
  await other.query('rollback')
  await other.query('begin')
  await other.query(`select from ${members} where id = $1 for update`, [ids[0]])
  expect((await sweep(admin, cluster)).removed).toBe(1)
  await other.query('rollback')
  expect((await sweep(admin, cluster)).removed).toBe(1)
})

test('promise 14: a sweep of a cluster that does not exist creates nothing', async () => {
  const admin = await openAdmin()
  const count = async (): Promise<unknown> =>
    (await admin.query(`select (select count(*) from ${schema}.clusters), (select count(*) from ${sweeps})`))
      .rows
  const before = await count()
  const cluster = uniqueName()
  expect(await sweep(admin, cluster)).toEqual({ wait_ms: 500, removed: 0, obstacles: null })
  await sweep(admin, '')
  expect(await count()).toEqual(before)
})

test('promise 11: the short path sweeps many clusters at once, where there is nothing to do', async () => {
  const admin = await openAdmin()
  const [one, two] = [await clusterWith(admin, 0), await clusterWith(admin, 0)]
  const asked = [one.cluster, null, uniqueName(), two.cluster, one.cluster]
  const { rows: before } = await admin.query<{ at: string }>('select clock_timestamp()::text as at')
  expect((await sweepIdle(admin, ...asked)).toSorted()).toEqual([one.cluster, two.cluster].toSorted())
  const { rowCount } = await admin.query(
    `select from ${sweeps} where cluster = any ($1) and swept_at > $2 and resumed_at < $2 and turn > swept_at`,
    [asked, before[0]?.at],
  )
  expect(rowCount).toBe(2)
  expect(await sweepIdle(admin)).toEqual([])
  expect((await admin.query(`select from ${schema}.sweep_idle(null)`)).rowCount).toBe(0)
})

const BUSY: Readonly<Record<string, string>> = {
  'somebody has been silent for too long': `update ${members} set heartbeat_at = heartbeat_at - interval '1 day' where cluster = $1`,
  'somebody is suspected': `update ${members} set suspected_at = clock_timestamp() where cluster = $1`,
  'a session is missing': `update ${members} set session = 'gone', session_role = 10, heartbeat_at = clock_timestamp() where cluster = $1`,
  'a heartbeat is from the future': `update ${members} set heartbeat_at = clock_timestamp() + interval '1 hour' where cluster = $1`,
  'a heartbeat was kept aside': `insert into ${schema}.held_heartbeats select cluster, id, token, clock_timestamp() from ${members} where cluster = $1`,
  'sweeping had a break': `update ${sweeps} set swept_at = swept_at - interval '1 hour' where cluster = $1`,
  'the server is another one': `update ${sweeps} set server_started_at = server_started_at - interval '1 s' where cluster = $1`,
  'the clock went back': `update ${sweeps} set swept_at = swept_at + interval '1 hour' where cluster = $1`,
  'an outage is from the future': `update ${sweeps} set outage_at = clock_timestamp() + interval '1 hour' where cluster = $1`,
}

test.each(Object.entries(BUSY))(
  'promises 6 and 7: the short path leaves a cluster alone where %s',
  async (_, text) => {
    const admin = await openAdmin()
    const { cluster } = await clusterWith(admin, 0)
    // Heard before sweeping resumed: no evidence.
    await admin.query(`update ${sweeps} set resumed_at = resumed_at - interval '1 hour' where cluster = $1`, [
      cluster,
    ])
    expect(await sweepIdle(admin, cluster)).toEqual([cluster])
    await admin.query(text, [cluster])
    const state = `select * from ${sweeps} where cluster = $1`
    const { rows: before } = await admin.query(state, [cluster])
    expect(await sweepIdle(admin, cluster)).toEqual([])
    expect((await admin.query(state, [cluster])).rows).toEqual(before)
  },
)

test('promise 7: the short path does nothing in a transaction with one snapshot, beside a sweep, or under a lock that keeps heartbeats out', async () => {
  const [admin, other] = [await openAdmin(), await openAdmin()]
  const { cluster } = await clusterWith(admin, 0)
  await admin.query('begin isolation level repeatable read')
  expect(await sweepIdle(admin, cluster)).toEqual([])
  await admin.query('commit')
  await other.query('begin')
  const { rows: before } = await other.query(`select * from ${sweeps} where cluster = $1 for update`, [
    cluster,
  ])
  const { rows: waits } = await admin.query(`select * from ${schema}.sweep_idle($1)`, [[cluster]])
  expect(waits).toEqual([{ cluster, wait_ms: 500 }])
  await other.query('rollback')
  expect((await admin.query(`select * from ${sweeps} where cluster = $1`, [cluster])).rows).toEqual(before)
  for (const table of ['members', 'clusters', 'events']) {
    await other.query('begin')
    await other.query(
      `lock table ${schema}.${table} in ${table === 'members' ? 'share' : 'access exclusive'} mode`,
    )
    await expect(sweepIdle(admin, cluster), table).rejects.toMatchObject({ code: '55P03' })
    await other.query('rollback')
  }
  expect(await sweepIdle(admin, cluster)).toEqual([cluster])
})

test.each([
  ['a foreign key that refuses', 'references', 'on delete restrict'],
  ['a foreign key that refuses at commit', 'references', 'deferrable initially deferred'],
])('promise 6: %s holds back only its own member, and is reported', async (_what, references, action) => {
  const admin = await openAdmin()
  const table = `${schema}.work_${String(Math.random()).slice(2)}`
  await admin.query(`create table ${table} (member uuid ${references} ${members} ${action})`)
  const { cluster, ids } = await clusterWith(admin, 4)
  const [obstructed = ''] = ids.slice(1)
  await admin.query(`insert into ${table} values ($1)`, [obstructed])
  const { removed, obstacles } = await sweep(admin, cluster)
  expect(removed).toBe(3)
  expect(obstacles).toHaveLength(1)
  expect(obstacles?.[0]).toContain(obstructed)
  expect(obstacles?.[0]).toContain('23')
  expect(await idsOf(admin, cluster)).toEqual([obstructed, ids[4]])
  const { rows } = await admin.query<{ recent: boolean }>(
    `select swept_at > clock_timestamp() - interval '10 s' as recent from ${sweeps} where cluster = $1`,
    [cluster],
  )
  expect(rows).toEqual([{ recent: true }])
  await admin.query(`drop table ${table}`)
  expect((await sweep(admin, cluster)).removed).toBe(1)
  expect((await storyOf(admin, schema, cluster)).filter((event) => event === 'left expired')).toHaveLength(4)
  await expectWholeLog(admin, schema, cluster)
})

test('promises 6 and 11: a referencing row that somebody holds locked holds back only its own member, for a bounded time', async () => {
  const [admin, other] = [await openAdmin(), await openAdmin()]
  const table = `${schema}.held`
  await admin.query(`create table ${table} (member uuid references ${members} on delete cascade)`)
  const { cluster, ids } = await clusterWith(admin, 3)
  await admin.query(`insert into ${table} select unnest($1::uuid[])`, [ids])
  await other.query('begin')
  await other.query(`select from ${table} where member = $1 for update`, [ids[1]])
  const startedMs = performance.now()
  const { removed, obstacles } = await sweep(admin, cluster)
  expect(performance.now() - startedMs).toBeLessThan(3_000)
  expect(removed).toBe(2)
  expect(obstacles).toHaveLength(1)
  await other.query('rollback')
  expect((await sweep(admin, cluster)).removed).toBe(1)
  expect((await admin.query(`select from ${table}`)).rowCount).toBe(1)
  await admin.query(`drop table ${table}`)
})

test('promise 6: the library reports an obstacle once, and removes the others meanwhile', async () => {
  const admin = await openAdmin()
  const warnings: string[] = []
  const table = `${schema}.pinned`
  await admin.query(`create table ${table} (member uuid references ${members})`)
  const { cluster: name, ids } = await clusterWith(admin, 2)
  await admin.query(`insert into ${table} values ($1)`, [ids[0]])
  const silent = (): void => undefined
  const cluster = openCluster({
    schema,
    name,
    logger: {
      debug: silent,
      info: silent,
      warn: (_details, message) => void warnings.push(message),
      error: silent,
    },
  })
  await joined(cluster)
  await until(
    async () => {
      await silence(admin, schema, name, ids.slice(0, 2))
      return !(await idsOf(admin, name)).includes(ids[1] ?? '')
    },
    { message: 'the other is removed' },
  )
  const sweptAt = async (): Promise<string> => {
    const { rows } = await admin.query<{ at: string }>(
      `select swept_at::text as at from ${sweeps} where cluster = $1`,
      [name],
    )
    return rows[0]?.at ?? ''
  }
  for (let n = 0; n < 2; n++) {
    const last = await sweptAt()
    await until(async () => (await sweptAt()) !== last, { message: 'another sweep, which finds the same' })
  }
  expect(warnings.filter((message) => message.includes('could not be removed'))).toHaveLength(1)
  await cluster.close()
  await admin.query(`drop table ${table}`)
})
