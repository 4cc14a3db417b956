import type { PostgresClusterOptions } from 'pg-membership'
import { expect, test } from 'vitest'
import { type AdminClient, databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { storyOf, tableOf } from '../support/event-log.js'
import { joined, openAdmin, openCluster, openPgBouncer, openProxy } from '../support/opened.js'
import type { PgBouncer } from '../support/pgbouncer.js'
import { until } from '../support/until.js'
import { startWorker, type Worker } from '../support/worker.js'

const PROCESSES = 6
const TTL_MS = 4_000
const TIMES = { ttlMs: TTL_MS, heartbeatMs: 600 }
const schema = await freshSchema()

async function startMember(options: PostgresClusterOptions): Promise<Worker> {
  const worker = await startWorker()
  await worker.ask('open', { schema, ...TIMES, throwingLogger: true, ...options })
  await worker.ask('follow')
  await worker.ask('join', {})
  return worker
}

/** What moves the clients of a pooler to other server connections, or cuts them off for a moment. */
const SHUFFLES: ((pooler: PgBouncer, admin: AdminClient) => Promise<unknown>)[] = [
  (pooler) => pooler.command('RECONNECT'),
  async (pooler) => {
    await pooler.command(`KILL ${pooler.database}`)
    await pooler.command(`RESUME ${pooler.database}`)
  },
  async (pooler, admin) =>
    admin.query('select pg_terminate_backend(pid) from unnest($1::int[]) pid', [await pooler.backends()]),
  async (pooler) => {
    await pooler.kill()
    await pooler.start()
  },
]

async function serverTime(admin: AdminClient): Promise<string> {
  const { rows } = await admin.query<{ now: string }>('select clock_timestamp()::text as now')
  return rows[0]?.now ?? ''
}

/** A heartbeat of every member that began after this call. */
async function allHeard(admin: AdminClient, cluster: string): Promise<void> {
  const since = await serverTime(admin)
  await until(
    async () => {
      const { rowCount } = await admin.query(
        `select from ${schema}.members where cluster = $1 and heartbeat_at > $2::timestamptz`,
        [cluster, since],
      )
      return rowCount === PROCESSES
    },
    { message: 'a heartbeat of each' },
  )
}

/** Sweeps, without a break, until it is that long after `since`. */
async function sweptPast(admin: AdminClient, cluster: string, since: string, ms: number): Promise<void> {
  await until(
    async () => {
      const { rowCount } = await admin.query(
        `select from ${schema}.sweeps where cluster = $1
         and swept_at > greatest(resumed_at, $2::timestamptz) + $3 * interval '1 ms'`,
        [cluster, since, ms],
      )
      return rowCount === 1
    },
    { withinMs: 30_000, message: `${ms} ms of sweeping without a break` },
  )
}

async function claimedSessions(admin: AdminClient, cluster: string): Promise<number> {
  const { rowCount } = await admin.query(
    `select from ${schema}.members where cluster = $1 and session is not null`,
    [cluster],
  )
  return rowCount ?? 0
}

test.each(['transaction', 'session'] as const)(
  'promise 7: processes behind PgBouncer in %s mode all stay, whatever becomes of its connections',
  async (mode) => {
    const admin = await openAdmin()
    // Beside what is done to them on purpose, no server connection is used for longer than a second.
    const pooler = await openPgBouncer(mode, { settings: { server_lifetime: 1 } })
    const name = uniqueName()
    const workers = await Promise.all(
      Array.from({ length: PROCESSES }, (_, n) => {
        const listening = n % 2 === 0 ? {} : { listenConnection: databaseUrl() }
        return startMember({ name, connection: pooler.url, ...listening })
      }),
    )
    // Reaches the database all the time, so that sweeping goes on and gives nobody time.
    const watcher = openCluster({ schema, name, connection: databaseUrl(), ...TIMES })
    await watcher.getMembers()
    const { members } = await tableOf(admin, schema, name)
    const began = await serverTime(admin)

    for (const shuffle of SHUFFLES) {
      await shuffle(pooler, admin)
      await allHeard(admin, name)
    }
    await sweptPast(admin, name, began, 2.2 * TTL_MS)

    expect(members).toHaveLength(PROCESSES)
    expect((await tableOf(admin, schema, name)).members).toEqual(members)
    expect(await storyOf(admin, schema, name)).toEqual(members.map(() => 'joined registered'))
    expect(await claimedSessions(admin, name), 'no session is claimed').toBe(0)
    for (const worker of workers) {
      expect(worker.toldOf('lost'), 'no lease ended').toEqual([])
      expect(worker.toldOf('uncaught')).toEqual([])
      expect((await worker.ask('snapshot')).members).toEqual(members)
    }
  },
)

test('promise 7: a member whose connections move behind a pooler, and back, gives up its session, and stays', async () => {
  const [admin, proxy, pooler] = [await openAdmin(), await openProxy(), await openPgBouncer('transaction')]
  const name = uniqueName()
  const times = { ...TIMES, crashGraceMs: TTL_MS / 2 }
  const watcher = openCluster({ schema, name, connection: databaseUrl(), ...times })
  const membership = await joined(openCluster({ schema, name, connection: proxy.throughIt, ...times }))
  await watcher.getMembers()
  const { lease } = membership
  const claims = (n: number) => async (): Promise<boolean> => (await claimedSessions(admin, name)) === n
  await until(claims(1), { message: 'its session is claimed' })
  for (const [url, claimed] of [
    [pooler.url, 0],
    [databaseUrl(), 1],
  ] as const) {
    proxy.switchTo(Number(new URL(url).port))
    proxy.reset()
    await until(claims(claimed), { message: `${claimed} sessions are claimed` })
    await sweptPast(admin, name, await serverTime(admin), 1.2 * times.crashGraceMs)
  }
  expect(membership.lease).toBe(lease)
  expect(await storyOf(admin, schema, name)).toEqual(['joined registered'])
})
