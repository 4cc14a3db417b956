import pg from 'pg'
import { expect, onTestFinished, test } from 'vitest'
import {
  type AdminClient,
  databaseUrl,
  freshSchema,
  inOneRoundTrip,
  uniqueName,
} from '../support/database.js'
import { expectWholeLog, storyOf, tableOf, typeMembers } from '../support/event-log.js'
import { joined, openAdmin, openCluster } from '../support/opened.js'
import { until } from '../support/until.js'
import { startWorker } from '../support/worker.js'

const schema = await freshSchema()
const members = `${schema}.members`
const sweeps = `${schema}.sweeps`
const JOINED = 'joined registered'

interface Swept {
  readonly wait_ms: number
  readonly removed: number
}

async function sweep(admin: AdminClient, cluster: string): Promise<Swept> {
  const { rows } = await admin.query<Swept>(`select wait_ms, removed from ${schema}.sweep($1)`, [cluster])
  if (!rows[0]) throw new Error('a sweep answers')
  return rows[0]
}

/** A cluster of processes, one member each, as the database knows them: by name. */
async function clusterOf(admin: AdminClient, ...sessions: readonly string[]): Promise<string> {
  const cluster = uniqueName()
  await typeMembers(admin, schema, cluster, sessions)
  await nameSessions(admin, cluster)
  // Watched for an hour without a break, and heard since.
  await admin.query(`select ${schema}.sweep($1)`, [cluster])
  await admin.query(
    `update ${sweeps} set resumed_at = clock_timestamp() - interval '1 hour' where cluster = $1`,
    [cluster],
  )
  await admin.query(`update ${members} set suspected_at = null where cluster = $1`, [cluster])
  return cluster
}

/**
 * Each as its data says; none of them will expire. The grace is longer than any test: what a suspicion's age is,
 * `pass` alone decides.
 */
async function nameSessions(admin: AdminClient, cluster: string): Promise<void> {
  await admin.query(
    `update ${members} set session = convert_from(data, 'UTF8'), session_role = current_user::regrole, crash_grace = '5 minutes', ttl = '1 day'
     where cluster = $1`,
    [cluster],
  )
}

/** A connection that carries the name. Returns how to end it. */
async function connected(session: string): Promise<() => Promise<void>> {
  const client = new pg.Client({ connectionString: databaseUrl(), application_name: session })
  await client.connect()
  const admin = await openAdmin()
  const end = async (): Promise<void> => {
    await client.end()
    await until(
      async () =>
        (await admin.query('select from pg_stat_activity where application_name = $1', [session]))
          .rowCount === 0,
      { message: `the connection of ${session} is gone` },
    )
  }
  onTestFinished(() => client.end())
  return end
}

async function living(...sessions: readonly string[]): Promise<void> {
  await Promise.all(sessions.map(connected))
}

/** As if a time had passed since the last suspicion and all heartbeats, and somebody had watched all the time. */
async function pass(admin: AdminClient, cluster: string, time: string): Promise<void> {
  await admin.query(
    `update ${members} set suspected_at = suspected_at - $2::interval, heartbeat_at = heartbeat_at - $2::interval
     where cluster = $1`,
    [cluster, time],
  )
}

async function suspected(admin: AdminClient, cluster: string): Promise<string[]> {
  const { rows } = await admin.query<{ session: string }>(
    `select session from ${members} where cluster = $1 and suspected_at is not null order by token`,
    [cluster],
  )
  return rows.map(({ session }) => session)
}

/** Who has left, and why. */
async function left(admin: AdminClient, cluster: string): Promise<string[]> {
  await expectWholeLog(admin, schema, cluster)
  return (await storyOf(admin, schema, cluster)).filter((event) => event !== JOINED)
}

function names(count: number): string[] {
  return Array.from({ length: count }, (_, n) => uniqueName(`process-${n}`))
}

test('promise 6: a process that is killed is gone from every snapshot long before its ttl, and the log says that it crashed', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  const workers = await Promise.all(Array.from({ length: 5 }, startWorker))
  const [victim, ...others] = workers
  if (!victim) throw new Error('five workers')
  for (const worker of workers) {
    await worker.ask('open', { connection: databaseUrl(), schema, name, ttlMs: 60_000, heartbeatMs: 1_000 })
    await worker.ask('join', {})
  }
  const { members: all } = await tableOf(admin, schema, name)
  // Heard since sweeping began.
  await until(
    async () => {
      const { rows } = await admin.query<{ heard: boolean }>(
        `select bool_and(m.heartbeat_at > s.resumed_at and m.heartbeat_at > m.registered_at) as heard
         from ${members} m join ${sweeps} s using (cluster) where cluster = $1`,
        [name],
      )
      return rows[0]?.heard
    },
    { message: 'all have been heard' },
  )
  await victim.kill()
  await until(
    async () => {
      const snapshots = await Promise.all(others.map((worker) => worker.ask('snapshot')))
      return snapshots.every((snapshot) => snapshot.members.length === 4)
    },
    { message: 'gone from every snapshot' },
  )
  expect((await tableOf(admin, schema, name)).members).toEqual(all.slice(1))
  expect(await left(admin, name)).toEqual(['left crashed'])
  for (const worker of others) expect(worker.toldOf('lost')).toEqual([])
})

test('promise 6: who is suspected is removed by a sweep after its grace, and so are all members of its process', async () => {
  const admin = await openAdmin()
  const [dead, alive] = names(2) as [string, string]
  await living(alive)
  const cluster = await clusterOf(admin, dead, alive, dead, dead)
  expect((await sweep(admin, cluster)).removed).toBe(0)
  expect(await suspected(admin, cluster)).toEqual([dead, dead, dead])
  await pass(admin, cluster, '2 minutes')
  expect((await sweep(admin, cluster)).removed).toBe(0)
  await pass(admin, cluster, '3 minutes')
  expect((await sweep(admin, cluster)).removed).toBe(3)
  expect(await left(admin, cluster)).toEqual(['left crashed', 'left crashed', 'left crashed'])
  expect((await tableOf(admin, schema, cluster)).members.map(({ data }) => data)).toEqual([alive])
})

test('promise 7: one connection of a process is enough', async () => {
  const admin = await openAdmin()
  const [process, other] = names(2) as [string, string]
  await living(process, other)
  const cluster = await clusterOf(admin, process, other)
  await sweep(admin, cluster)
  expect(await suspected(admin, cluster)).toEqual([])
})

test('promises 7 and 15: who sweeps inside a transaction sees the connections of now, not those of its beginning', async () => {
  const [admin, reading] = [await openAdmin(), await openAdmin()]
  const [process, other] = names(2) as [string, string]
  await reading.query('begin')
  await reading.query('select from pg_stat_activity')
  await living(process, other)
  const cluster = await clusterOf(admin, process, other)
  await sweep(reading, cluster)
  expect(await suspected(reading, cluster)).toEqual([])
  await reading.query('rollback')
})

test('promise 7: a suspicion ends when a connection is back', async () => {
  const admin = await openAdmin()
  const [process, other] = names(2) as [string, string]
  await living(other)
  const cluster = await clusterOf(admin, process, other)
  await sweep(admin, cluster)
  expect(await suspected(admin, cluster)).toEqual([process])
  const end = await connected(process)
  await pass(admin, cluster, '6 minutes')
  expect((await sweep(admin, cluster)).removed).toBe(0)
  expect(await suspected(admin, cluster)).toEqual([])
  // And begins anew, with a whole grace.
  await end()
  expect((await sweep(admin, cluster)).removed).toBe(0)
  expect((await sweep(admin, cluster)).removed).toBe(0)
  expect(await left(admin, cluster)).toEqual([])
})

test('promise 7: a suspicion ends with a heartbeat, also one whose connection is gone again', async () => {
  const admin = await openAdmin()
  const [process, other] = names(2) as [string, string]
  await living(other)
  const cluster = await clusterOf(admin, process, other)
  await sweep(admin, cluster)
  await pass(admin, cluster, '6 minutes')
  const [{ id, token } = { id: '', token: 0 }] = (await tableOf(admin, schema, cluster)).members
  const beating = new pg.Client({ connectionString: databaseUrl(), application_name: process })
  await beating.connect()
  await beating.query(
    `select ${schema}.heartbeat($1, array[$2::uuid], array[$3::bigint], $4, pg_backend_pid())`,
    [cluster, id, token, process],
  )
  await beating.end()
  await until(
    async () =>
      (await admin.query('select from pg_stat_activity where application_name = $1', [process])).rowCount ===
      0,
    { message: 'the connection is gone' },
  )
  expect((await sweep(admin, cluster)).removed).toBe(0)
  expect(await suspected(admin, cluster)).toEqual([process])
})

test('promise 7: where at least three processes, and more than half, are missing at once, it is the network: nobody is suspected, nor anybody who was', async () => {
  const admin = await openAdmin()
  const processes = names(6)
  const ends = await Promise.all(processes.slice(1, 3).map(connected))
  await living(...processes.slice(3))
  const cluster = await clusterOf(admin, ...processes)
  await sweep(admin, cluster)
  expect(await suspected(admin, cluster)).toEqual(processes.slice(0, 1))
  await pass(admin, cluster, '6 minutes')
  await Promise.all(ends.map((end) => end()))
  // Three of six are no more than half.
  expect((await sweep(admin, cluster)).removed).toBe(1)
  expect(await suspected(admin, cluster)).toEqual(processes.slice(1, 3))
  await admin.query(`delete from ${members} where cluster = $1 and session = $2`, [cluster, processes[5]])
  await typeMembers(admin, schema, cluster, ['a', 'b'])
  await nameSessions(admin, cluster)
  // Four of six are more.
  await pass(admin, cluster, '6 minutes')
  expect((await sweep(admin, cluster)).removed).toBe(0)
  expect(await suspected(admin, cluster)).toEqual([])
})

test.each([
  ['that was heard before sweeping resumed', `heartbeat_at = heartbeat_at - interval '2 hours'`],
  ['that wants none', `crash_grace = null`],
  ['whose connections do not show its session', `session = null`],
])('promise 7: there is no crash detection for a member %s', async (_whom, change) => {
  const admin = await openAdmin()
  const [process, other] = names(2) as [string, string]
  await living(other)
  const cluster = await clusterOf(admin, process, other)
  await admin.query(`update ${members} set ${change} where cluster = $1 and session = $2`, [cluster, process])
  await sweep(admin, cluster)
  expect(await suspected(admin, cluster)).toEqual([])
  // Nor for one that became so after it was suspected.
  await admin.query(
    `update ${members} set suspected_at = clock_timestamp() - interval '6 minutes', heartbeat_at = least(heartbeat_at, clock_timestamp() - interval '7 minutes')
     where cluster = $1 and data = $2`,
    [cluster, Buffer.from(process)],
  )
  expect((await sweep(admin, cluster)).removed).toBe(0)
})

test('promise 7: evidence from before sweeping resumed is worthless', async () => {
  const admin = await openAdmin()
  const [process, other] = names(2) as [string, string]
  await living(other)
  const cluster = await clusterOf(admin, process, other)
  await sweep(admin, cluster)
  await pass(admin, cluster, '6 minutes')
  await admin.query(
    `update ${sweeps} set server_started_at = server_started_at - interval '1 s' where cluster = $1`,
    [cluster],
  )
  expect((await sweep(admin, cluster)).removed).toBe(0)
  expect((await sweep(admin, cluster)).removed).toBe(0)
})

test.each([
  ['sweeps', `select ${schema}.sweep($1)`],
  [
    'registers',
    `select ${schema}.register($1, array[gen_random_uuid()], array[''::bytea], array[0], '15 s', null, null, null)`,
  ],
])(
  'promise 7: a heartbeat from before a failover is no evidence, also by a clock that was ahead, when the first who comes back %s',
  async (_does, statement) => {
    const admin = await openAdmin()
    const [process, other] = names(2) as [string, string]
    await living(other)
    const cluster = await clusterOf(admin, process, other)
    // A promotion empties what is unlogged.
    await admin.query(`delete from ${sweeps} where cluster = $1`, [cluster])
    await admin.query(
      `update ${members} set heartbeat_at = clock_timestamp() + interval '1 minute' where cluster = $1`,
      [cluster],
    )
    await admin.query(statement, [cluster])
    await sweep(admin, cluster)
    expect(await suspected(admin, cluster)).toEqual([])
  },
)

test('promise 7: a suspected member whose row somebody holds stays until it is let go', async () => {
  const [admin, locking] = [await openAdmin(), await openAdmin()]
  const [process, other] = names(2) as [string, string]
  await living(other)
  const cluster = await clusterOf(admin, process, other)
  await sweep(admin, cluster)
  await pass(admin, cluster, '6 minutes')
  await locking.query('begin')
  await locking.query(`select from ${members} where cluster = $1 for key share`, [cluster])
  expect((await sweep(admin, cluster)).removed).toBe(0)
  await locking.query('rollback')
  expect((await sweep(admin, cluster)).removed).toBe(1)
})

test('promise 6: a sweep that suspects somebody comes back after the grace, and takes no turn', async () => {
  const admin = await openAdmin()
  const [process, other] = names(2) as [string, string]
  await living(other)
  const cluster = await clusterOf(admin, process, other)
  await admin.query(`update ${members} set crash_grace = '400 ms' where cluster = $1`, [cluster])
  const sweeping = `select wait_ms from ${schema}.sweep('${cluster}')`
  const turn = `select turn::text from ${sweeps} where cluster = '${cluster}'`
  // Turns that are far ahead, as in a cluster of fifty.
  const ahead = `update ${sweeps} set turn = clock_timestamp() + interval '10 s', swept_at = clock_timestamp()
    where cluster = '${cluster}'`
  const [before, first, after, second] = await inOneRoundTrip<{ wait_ms: number; turn: string }>(admin, [
    ...[ahead, turn, sweeping, turn, sweeping],
  ])
  expect(first?.wait_ms).toBeGreaterThan(0)
  expect(first?.wait_ms).toBeLessThanOrEqual(403)
  expect(after).toEqual(before)
  // It has been suspected before: nobody else comes back early for it.
  expect(second?.wait_ms).toBeGreaterThan(1_000)
})

test('promise 6: turns that nobody took are void', async () => {
  const admin = await openAdmin()
  const [one, other] = names(2) as [string, string]
  await living(one, other)
  const cluster = await clusterOf(admin, one, other)
  // Forty-eight others died after their turns were handed out.
  await admin.query(
    `update ${sweeps} set turn = clock_timestamp() + interval '25 s', swept_at = clock_timestamp() - interval '2 s'
     where cluster = $1`,
    [cluster],
  )
  expect((await sweep(admin, cluster)).wait_ms).toBeLessThanOrEqual(500)
})

test('promise 6: a grace that is longer than a turn does not keep others from sweeping until it is over', async () => {
  const admin = await openAdmin()
  const [process, other] = names(2) as [string, string]
  await living(other)
  const cluster = await clusterOf(admin, process, other)
  await admin.query(`update ${members} set crash_grace = '5 s' where cluster = $1`, [cluster])
  expect((await sweep(admin, cluster)).wait_ms).toBeLessThanOrEqual(1_000)
  expect(await suspected(admin, cluster)).toEqual([process])
})

test('promises 6 and 7: a held heartbeat ends a suspicion, but one from before it does not hide a death', async () => {
  const admin = await openAdmin()
  const [process, other] = names(2) as [string, string]
  await living(other)
  const cluster = await clusterOf(admin, process, other)
  const [{ id, token } = { id: '', token: 0 }] = (await tableOf(admin, schema, cluster)).members
  await admin.query(`insert into ${schema}.held_heartbeats values ($1, $2, $3, clock_timestamp())`, [
    cluster,
    id,
    token,
  ])
  await sweep(admin, cluster)
  // It came after the suspicion: then it ends it, as any other would.
  await pass(admin, cluster, '6 minutes')
  expect((await sweep(admin, cluster)).removed).toBe(0)
  // It came before.
  await admin.query(
    `update ${schema}.held_heartbeats h set at = m.heartbeat_at + (m.suspected_at - m.heartbeat_at) / 2
     from ${members} m where m.id = $1 and h.member = m.id`,
    [id],
  )
  expect((await sweep(admin, cluster)).removed).toBe(1)
})

test('promise 6: while many who died together wait for their ttl, others are found as soon as ever', async () => {
  const admin = await openAdmin()
  const processes = names(5)
  const end = await connected(processes[3] ?? '')
  await living(processes[4] ?? '')
  const cluster = await clusterOf(admin, ...processes)
  await sweep(admin, cluster)
  expect(await suspected(admin, cluster), 'three of five at once').toEqual([])
  await admin.query(
    `update ${members} set heartbeat_at = clock_timestamp() where cluster = $1 and session = any ($2)`,
    [cluster, processes.slice(3)],
  )
  await end()
  await sweep(admin, cluster)
  expect(await suspected(admin, cluster)).toEqual([processes[3]])
})

test('promise 6: turns do not stay in the future when the clock of the server goes back', async () => {
  const admin = await openAdmin()
  const cluster = await clusterOf(admin, 'one')
  await admin.query(
    `update ${sweeps} set turn = turn + interval '1 hour', swept_at = swept_at + interval '1 hour' where cluster = $1`,
    [cluster],
  )
  expect((await sweep(admin, cluster)).wait_ms).toBeLessThanOrEqual(500)
})

test.each(['read committed', 'repeatable read'])(
  'promises 7 and 15: late in a transaction (%s) a sweep holds nobody’s silence against them',
  async (isolation) => {
    const [admin, reading] = [await openAdmin(), await openAdmin()]
    const cluster = uniqueName()
    await typeMembers(admin, schema, cluster, ['one'])
    await admin.query(`update ${members} set ttl = '1 s' where cluster = $1`, [cluster])
    await reading.query(`begin isolation level ${isolation}`)
    await sweep(reading, cluster)
    const startedMs = performance.now()
    let removed = 0
    // As somebody does who has the locks that others wait for.
    await until(
      async () => {
        removed += (await sweep(reading, cluster)).removed
        return performance.now() > startedMs + 1_500
      },
      { message: 'more than a ttl' },
    )
    expect(removed).toBe(0)
    await reading.query('rollback')
  },
)

test('promise 11: a sweep in a transaction that stays open keeps nobody from registering', async () => {
  const [admin, sweeping] = [await openAdmin(), await openAdmin()]
  const cluster = uniqueName()
  await typeMembers(admin, schema, cluster, ['one'])
  await sweeping.query('begin')
  await sweep(sweeping, cluster)
  await joined(openCluster({ schema, name: cluster }))
  await sweeping.query('rollback')
})
