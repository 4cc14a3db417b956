import diagnostics from 'node:diagnostics_channel'
import { migrate } from 'pg-membership'
import type { Member, Membership, PostgresCluster } from 'pg-membership'
import { afterAll, expect, onTestFinished, test } from 'vitest'
import { uniqueName, type AdminClient } from '../support/database.js'
import { storyOf, tableOf } from '../support/event-log.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import { startPostgres, type StopMode } from '../support/postgres-server.js'
import { until } from '../support/until.js'

const TTL_MS = 1_500
const server = await startPostgres({ fsync: false })
const schema = 'pgmembership'
await migrate({ connection: server.url })
afterAll(() => server[Symbol.asyncDispose]())

interface Fleet {
  readonly name: string
  readonly clusters: readonly PostgresCluster[]
  readonly memberships: readonly Membership[]
  /** The members, as they were at the beginning. */
  readonly members: readonly Member[]
  /** Everything that any of them has seen. */
  readonly seen: ReadonlySet<string>
}

/** Members that live in as many processes, as far as the database can tell, each watching the others. */
async function fleet(connections: readonly string[]): Promise<Fleet> {
  const name = uniqueName()
  const clusters = connections.map((connection) => openCluster({ name, connection, ttlMs: TTL_MS }))
  const memberships: Membership[] = []
  for (const cluster of clusters) memberships.push(await joined(cluster))
  for (const cluster of clusters) {
    await until(() => cluster.snapshot?.members.length === clusters.length, { message: 'all see all' })
  }
  const seen = new Set<string>()
  for (const cluster of clusters) {
    const watch = async (): Promise<void> => {
      for await (const members of cluster.watchMembers()) {
        seen.add(members.map(({ id, token }) => `${id} ${token}`).join())
      }
    }
    void watch()
  }
  return { name, clusters, memberships, members: clusters[0]?.snapshot?.members ?? [], seen }
}

/** That all are there as at the beginning, and that nobody has ever seen anything else. */
async function expectUnharmed(fleet: Fleet, admin: AdminClient): Promise<void> {
  const { name, memberships, members, seen } = fleet
  for (const [n, membership] of memberships.entries()) {
    expect((await membership.whenRegistered()).token).toBe(members[n]?.token)
  }
  expect(await storyOf(admin, schema, name)).toEqual(members.map(() => 'joined registered'))
  expect((await tableOf(admin, schema, name)).members).toEqual(members)
  expect(seen.size).toBeLessThanOrEqual(1)
}

/** Sweeping has gone on for more than a ttl since it resumed: who was to expire has expired. */
async function sweptForTtl(admin: AdminClient, name: string): Promise<void> {
  await until(
    async () => {
      const { rows } = await admin.query<{ long: boolean }>(
        `select swept_at > resumed_at + $2 * interval '1 ms' as long from ${schema}.sweeps where cluster = $1`,
        [name, 1.2 * TTL_MS],
      )
      return rows[0]?.long === true
    },
    { withinMs: 20_000, message: 'a ttl of sweeping' },
  )
}

async function admin(): Promise<AdminClient> {
  return openAdmin(server.url)
}

test.each<StopMode>(['fast', 'immediate', 'kill'])(
  'promise 7: a server that is stopped (%s) and started again costs nobody its registration',
  async (mode) => {
    const living = await fleet(Array.from({ length: 4 }, () => server.url))
    const started = await admin()
    await sweptForTtl(started, living.name)
    await server.stop(mode)
    await server.start()
    const again = await admin()
    await until(() => living.memberships.every(({ lease }) => lease !== undefined), {
      message: 'all lease again',
    })
    await until(() => living.clusters.every(({ status }) => status.mode === 'listening'), {
      message: 'all listen again',
    })
    await sweptForTtl(again, living.name)
    await expectUnharmed(living, again)
  },
)

test('promise 7: after an outage longer than the ttl all go on as they were, also who is last to reach the database', async () => {
  const proxy = await openProxy(server.url)
  const living = await fleet([server.url, server.url, proxy.throughIt, proxy.throughIt])
  await sweptForTtl(await admin(), living.name)
  const leases = living.memberships.map(({ lease }) => lease)
  await proxy.cut()
  await server.stop('fast')
  const stoppedMs = performance.now()
  await until(() => performance.now() > stoppedMs + 1.5 * TTL_MS, { message: 'an outage' })
  for (const lease of leases)
    expect(lease?.signal.reason).toMatchObject({ code: 'LOST', reason: 'unreachable' })
  await server.start()
  const again = await admin()
  // Those who are back sweep for half a ttl before the others reach the database.
  await until(
    async () => {
      const { rows } = await again.query<{ half: boolean }>(
        `select swept_at > resumed_at + $2 * interval '1 ms' as half from ${schema}.sweeps where cluster = $1
         and resumed_at > pg_postmaster_start_time()`,
        [living.name, TTL_MS / 2],
      )
      return rows[0]?.half === true
    },
    { message: 'half a ttl of sweeping' },
  )
  expect((await tableOf(again, schema, living.name)).members).toEqual(living.members)
  await proxy.restore()
  await sweptForTtl(again, living.name)
  await expectUnharmed(living, again)
})

test('promise 7: the crash of one backend, which restarts the server, costs nobody its registration', async () => {
  const living = await fleet(Array.from({ length: 3 }, () => server.url))
  const victim = await admin()
  await sweptForTtl(victim, living.name)
  const { rows } = await victim.query<{ pid: number }>('select pg_backend_pid() as pid')
  process.kill(rows[0]?.pid ?? 0, 'SIGKILL')
  const again = await until(admin, { message: 'the server is back' })
  await until(
    async () =>
      (await again.query(`select from ${schema}.sweeps where cluster = $1`, [living.name])).rowCount === 1,
    { message: 'sweeping has resumed' },
  )
  await sweptForTtl(again, living.name)
  await expectUnharmed(living, again)
})

test('promise 7: losing connections, some or all, costs nobody its registration', async () => {
  const living = await fleet(Array.from({ length: 3 }, () => server.url))
  const looking = await admin()
  for (let n = 0; n < 5; n++) {
    await looking.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'pg-membership%'`,
    )
    await until(() => living.clusters.every(({ status }) => status.mode === 'listening'), {
      message: 'all listen again',
    })
  }
  await sweptForTtl(looking, living.name)
  await expectUnharmed(living, looking)
})

/** Heartbeats of a cluster's processes that found everything renewed. */
function heartbeatsOf(name: string): () => number {
  let count = 0
  const note = (message: unknown): void => {
    if ((message as { cluster: string }).cluster === name) count += 1
  }
  diagnostics.subscribe('pg-membership:heartbeat', note)
  onTestFinished(() => void diagnostics.unsubscribe('pg-membership:heartbeat', note))
  return () => count
}

test('promise 7: a lock on the row of the cluster, held for longer than the ttl, ends no lease', async () => {
  const living = await fleet(Array.from({ length: 3 }, () => server.url))
  const [locking, looking] = [await admin(), await admin()]
  const leases = living.memberships.map(({ lease }) => lease)
  await locking.query('begin')
  await locking.query(`select from ${schema}.clusters where name = $1 for update`, [living.name])
  // Somebody waits for it, and must not hold up the heartbeats of its process.
  const set = living.memberships[0]?.setData('late')
  set?.catch(() => undefined)
  const beats = heartbeatsOf(living.name)
  const startedMs = performance.now()
  await until(() => performance.now() > startedMs + 1.5 * TTL_MS && beats() >= 9, {
    message: 'three heartbeats each',
  })
  expect(living.memberships.map(({ lease }) => lease)).toEqual(leases)
  await locking.query('commit')
  await set
  expect(living.memberships.map(({ lease }) => lease)).toEqual(leases)
  expect(await storyOf(looking, schema, living.name)).toEqual([
    ...living.members.map(() => 'joined registered'),
    'updated data',
  ])
})

test('promise 7: a lock on members, held for longer than the ttl, costs nobody its registration', async () => {
  const living = await fleet(Array.from({ length: 3 }, () => server.url))
  const [locking, looking] = [await admin(), await admin()]
  await sweptForTtl(looking, living.name)
  await locking.query('begin')
  const leases = living.memberships.map(({ lease }) => lease)
  await locking.query(`select from ${schema}.members where cluster = $1 for update`, [living.name])
  const beats = heartbeatsOf(living.name)
  const startedMs = performance.now()
  await until(() => performance.now() > startedMs + 1.5 * TTL_MS && beats() >= 9, {
    message: 'three heartbeats each',
  })
  expect(living.memberships.map(({ lease }) => lease)).toEqual(leases)
  const { rows } = await looking.query<{ at: string }>(`select clock_timestamp()::text as at`)
  await until(
    async () => {
      const { rowCount } = await looking.query(
        `select from ${schema}.sweeps where cluster = $1 and swept_at > $2::timestamptz + interval '400 ms'`,
        [living.name, rows[0]?.at],
      )
      return rowCount === 1
    },
    { message: 'sweeps while the lock is held' },
  )
  // All have reached the database within their ttl, again and again; a sweep comes before they do so again.
  await locking.query(`commit; select ${schema}.sweep('${living.name}')`)
  await sweptForTtl(looking, living.name)
  await expectUnharmed(living, looking)
})

test('promise 7: a lock on an application row that refers to members costs nobody its registration', async () => {
  const living = await fleet(Array.from({ length: 3 }, () => server.url))
  const [locking, looking] = [await admin(), await admin()]
  await looking.query(`create table held (member uuid references ${schema}.members on delete cascade)`)
  await looking.query(`insert into held select id from ${schema}.members where cluster = $1`, [living.name])
  const leases = living.memberships.map(({ lease }) => lease)
  await locking.query('begin')
  await locking.query('select from held for update')
  // As the foreign keys of other transactions do.
  await locking.query(`select from ${schema}.members where cluster = $1 for key share`, [living.name])
  const beats = heartbeatsOf(living.name)
  const startedMs = performance.now()
  await until(() => performance.now() > startedMs + 1.5 * TTL_MS && beats() >= 9, {
    message: 'three heartbeats each',
  })
  await locking.query('commit')
  expect(living.memberships.map(({ lease }) => lease)).toEqual(leases)
  await sweptForTtl(looking, living.name)
  await expectUnharmed(living, looking)
})

test('promise 7: a storm of registrations costs nobody its registration', async () => {
  const living = await fleet(Array.from({ length: 2 }, () => server.url))
  const looking = await admin()
  const storm = Array.from({ length: 4 }, () => openCluster({ name: living.name, connection: server.url }))
  await Promise.all(
    storm.map(async (cluster) => {
      for (let n = 0; n < 4; n++) {
        const guests = await Promise.all(Array.from({ length: 250 }, () => joined(cluster)))
        await Promise.all(guests.map((guest) => guest.deregister()))
      }
    }),
  )
  for (const [n, membership] of living.memberships.entries()) {
    expect((await membership.whenRegistered()).token).toBe(living.members[n]?.token)
  }
  expect((await tableOf(looking, schema, living.name)).members).toEqual(living.members)
})
