/**
 * npx tsx bench/cost.ts: what the library costs a database, on a private PostgreSQL with fsync on.
 *
 * Absolute times say more about the machine than about the library. What carries over are the ratio of
 * `register` to a bare INSERT with pg_notify, measured by turns in one run, and the counts.
 */
import { fork } from 'node:child_process'
import diagnostics from 'node:diagnostics_channel'
import { once } from 'node:events'
import { availableParallelism, cpus } from 'node:os'
import { hrtime } from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { migrate, PostgresCluster, type Membership } from 'pg-membership'
import { startPostgres } from '../test/support/postgres-server.js'

/** What the other process saw, and when: nanoseconds of the clock that all processes of a machine share. */
interface Sighting {
  readonly seen: 'notification' | 'members'
  readonly ids: readonly string[]
  readonly at: string
}

const ROUNDS = 300
const BEATS = 30
const SIZES = [1, 10, 100, 1_000]
const CLUSTER = 'cost'

async function observe(connectionString: string): Promise<void> {
  const tell = (seen: Sighting['seen'], ids: readonly string[]): void => {
    process.send?.({ seen, ids, at: String(hrtime.bigint()) } satisfies Sighting)
  }
  const client = new pg.Client({ connectionString })
  await client.connect()
  client.on('notification', () => tell('notification', []))
  await client.query('listen bare')
  const cluster = new PostgresCluster({ connection: connectionString, name: CLUSTER })
  process.once('disconnect', () => void Promise.all([client.end(), cluster.close()]))
  for await (const members of cluster.watchMembers()) {
    tell(
      'members',
      members.map(({ id }) => id),
    )
  }
}

async function main(): Promise<void> {
  await using server = await startPostgres({
    fsync: true,
    // Whatever WAL there is should be of what is measured.
    settings: { max_wal_size: '4GB', autovacuum: 'off' },
  })
  const connectionString = server.url
  await migrate({ connection: connectionString })
  const admin = new pg.Client({ connectionString })
  // What went wrong is thrown elsewhere; the server's farewell is not it.
  admin.on('error', () => undefined)
  await admin.connect()
  const { rows } = await admin.query<{ server_version: string }>('show server_version')
  const [cpu] = cpus()
  print('Run on', `${availableParallelism()} cores (${cpu?.model.trim() ?? 'unknown'})`)
  print('', `PostgreSQL ${rows[0]?.server_version ?? '?'} with fsync on, Node ${process.version}`)
  const observer = new Observer(connectionString)
  await observer.ready
  try {
    await compareWithBareNotify(connectionString, admin, observer)
    await countConnections(connectionString, admin)
  } finally {
    await observer.stop()
  }
  for (const size of SIZES) await heartbeats(connectionString, admin, size)
  await crowd(connectionString, admin)
  await admin.end()
}

/** By turns, so that whatever else the machine does falls on both. */
async function compareWithBareNotify(
  connectionString: string,
  admin: pg.Client,
  observer: Observer,
): Promise<void> {
  await admin.query('create table bare (id uuid primary key, data bytea)')
  const writer = new pg.Client({ connectionString })
  writer.on('error', () => undefined)
  await writer.connect()
  await using cluster = new PostgresCluster({ connection: connectionString, name: CLUSTER })
  const bare: number[] = []
  const visible: number[] = []
  const resolved: number[] = []
  const gone: number[] = []
  for (let round = -20; round < ROUNDS; round++) {
    const startedBare = hrtime.bigint()
    await writer.query(
      `with added as (insert into bare values (gen_random_uuid(), 'data') returning id)
       select pg_notify('bare', '') from added`,
    )
    const bareMs = await observer.saw('notification', () => true, startedBare)

    const membership = cluster.createMembership({ data: 'data' })
    const started = hrtime.bigint()
    await membership.register()
    const resolvedMs = milliseconds(started, hrtime.bigint())
    const visibleMs = await observer.saw('members', (ids) => ids.includes(membership.id), started)
    const leaving = hrtime.bigint()
    await membership.deregister()
    const goneMs = await observer.saw('members', (ids) => !ids.includes(membership.id), leaving)
    if (round < 0) continue
    bare.push(bareMs)
    visible.push(visibleMs)
    resolved.push(resolvedMs)
    gone.push(goneMs)
  }
  await writer.end()
  print('One change', `median of ${ROUNDS}, as another process sees it, and as a multiple of the first line`)
  const [unit, ...others] = [
    ['bare INSERT + pg_notify -> received', median(bare)],
    ['register() -> in the other snapshot', median(visible)],
    ['deregister() -> out of the other snapshot', median(gone)],
    ['register() -> resolved, in the own snapshot', median(resolved)],
  ] as const
  print('', `${unit[0].padEnd(46)}${show(unit[1])} ms`)
  for (const [name, ms] of others) {
    print('', `${name.padEnd(46)}${show(ms)} ms   ${(ms / unit[1]).toFixed(1)}x`)
  }
}

/** Of a process that is alone, and of one with another member to watch: that one takes its turns at sweeping. */
async function countConnections(connectionString: string, admin: pg.Client): Promise<void> {
  await using alone = new PostgresCluster({ connection: connectionString, name: 'alone' })
  await alone.createMembership().register()
  const busy = await backends(admin)
  await sleep(12_000)
  const idle = await backends(admin)
  await using other = new PostgresCluster({ connection: connectionString, name: 'alone' })
  await other.createMembership().register()
  await sleep(12_000)
  const transactions = async (): Promise<number> => {
    const { rows } = await admin.query<{ n: string }>(
      'select sum(xact_commit + xact_rollback) as n from pg_stat_database where datname = current_database()',
    )
    return Number(rows[0]?.n)
  }
  const before = await transactions()
  const startedMs = performance.now()
  await sleep(15_000)
  const perSecond = ((await transactions()) - before) / ((performance.now() - startedMs) / 1_000)
  print('Connections', `one process alone: ${busy} after a registration, ${idle} when idle`)
  print('', `two that watch each other: ${await backends(admin)} when nothing changes`)
  print(
    'Transactions',
    `${perSecond.toFixed(1)} per second in all, two idle processes with the default ttl of 15 s`,
  )
}

/** Of this process: its id is part of the name that all its connections carry. */
async function backends(admin: pg.Client): Promise<number> {
  const { rows } = await admin.query<{ n: string }>(
    `select count(*) as n from pg_stat_activity
     where application_name like 'pg-membership %' and application_name like $1`,
    [`% ${process.pid} %`],
  )
  return Number(rows[0]?.n)
}

async function heartbeats(connectionString: string, admin: pg.Client, size: number): Promise<void> {
  const name = `heartbeats-${String(size)}`
  await using cluster = new PostgresCluster({
    connection: connectionString,
    name,
    ttlMs: 60_000,
    heartbeatMs: 100,
  })
  const beats: number[] = []
  const listen = (message: unknown): void => {
    const beat = message as { cluster: string; registrations: number; durationMs: number }
    if (beat.cluster === name && beat.registrations === size) beats.push(beat.durationMs)
  }
  const memberships = Array.from({ length: size }, () => cluster.createMembership({ data: 'data' }))
  await registerAll(memberships)
  // After a checkpoint, the first change to a page logs the whole page: that is over after one round.
  await admin.query('checkpoint')
  diagnostics.subscribe('pg-membership:heartbeat', listen)
  await reached(beats, 2)
  const from = await counters(admin)
  const first = beats.length
  await reached(beats, first + BEATS)
  const to = await counters(admin)
  diagnostics.unsubscribe('pg-membership:heartbeat', listen)
  const rows = (beats.length - first) * size
  const bytes = Number(to.wal - from.wal) / rows
  if (size === SIZES[0])
    print('Heartbeats', `median of ${BEATS}; one statement for all registrations of a process`)
  print(
    '',
    `${String(size).padStart(5)} registrations: ${show(median(beats))} ms, ${bytes.toFixed(0)} bytes of WAL a row, ` +
      `${((100 * (to.hot - from.hot)) / (to.updates - from.updates)).toFixed(1)} % HOT`,
  )
}

async function counters(admin: pg.Client): Promise<{ wal: bigint; updates: number; hot: number }> {
  // A backend reports what it counted at most once a second.
  await sleep(1_200)
  const { rows } = await admin.query<{ wal: string; updates: string; hot: string }>(
    `select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0') as wal, n_tup_upd as updates, n_tup_hot_upd as hot
     from pg_stat_user_tables where schemaname = 'pgmembership' and relname = 'members'`,
  )
  const [row] = rows
  return { wal: BigInt(row?.wal ?? 0), updates: Number(row?.updates), hot: Number(row?.hot) }
}

async function crowd(connectionString: string, admin: pg.Client): Promise<void> {
  const size = 1_000
  const cluster = new PostgresCluster({ connection: connectionString, name: 'crowd' })
  const memberships = Array.from({ length: size }, () => cluster.createMembership({ data: 'data' }))
  let started = hrtime.bigint()
  await registerAll(memberships)
  print('A crowd', `${size} memberships of one process`)
  print('', `registered at once: ${show(milliseconds(started, hrtime.bigint()))} ms`)

  const calls = 100_000
  started = hrtime.bigint()
  for (let call = 0; call < calls; call++) await cluster.getMembers()
  print(
    '',
    `getMembers() from the cache: ${((1_000 * milliseconds(started, hrtime.bigint())) / calls).toFixed(2)} us`,
  )

  const sweeps: number[] = []
  for (let sweep = 0; sweep < BEATS; sweep++) {
    started = hrtime.bigint()
    await admin.query(`select * from pgmembership.sweep('crowd')`)
    sweeps.push(milliseconds(started, hrtime.bigint()))
  }
  print('', `one sweep that finds nothing: ${show(median(sweeps))} ms`)

  started = hrtime.bigint()
  await cluster.close()
  print('', `deregistered by close(): ${show(milliseconds(started, hrtime.bigint()))} ms`)
}

async function registerAll(memberships: readonly Membership[]): Promise<void> {
  await Promise.all(memberships.map((membership) => membership.register()))
}

/** The other process. */
class Observer {
  readonly ready: Promise<unknown>
  readonly #child
  #waiting: { readonly matches: (sighting: Sighting) => boolean; readonly found: (at: bigint) => void }[] = []
  #sightings: Sighting[] = []

  constructor(connectionString: string) {
    this.#child = fork(fileURLToPath(import.meta.url), ['observe', connectionString])
    this.ready = this.saw('members', () => true, hrtime.bigint())
    this.#child.on('message', (message) => {
      const sighting = message as Sighting
      this.#sightings.push(sighting)
      this.#waiting = this.#waiting.filter(({ matches, found }) => {
        if (!matches(sighting)) return true
        found(BigInt(sighting.at))
        return false
      })
    })
  }

  /** Milliseconds from `since` until it saw that. */
  async saw(
    seen: Sighting['seen'],
    what: (ids: readonly string[]) => boolean,
    since: bigint,
  ): Promise<number> {
    const matches = (sighting: Sighting): boolean =>
      sighting.seen === seen && BigInt(sighting.at) >= since && what(sighting.ids)
    const already = this.#sightings.find(matches)
    this.#sightings = []
    const at =
      already === undefined
        ? await new Promise<bigint>((found) => this.#waiting.push({ matches, found }))
        : BigInt(already.at)
    return milliseconds(since, at)
  }

  async stop(): Promise<void> {
    this.#child.disconnect()
    await once(this.#child, 'exit')
  }
}

async function reached(values: readonly unknown[], count: number): Promise<void> {
  while (values.length < count) await sleep(20)
}

function milliseconds(from: bigint, to: bigint): number {
  return Number(to - from) / 1e6
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? NaN
}

function show(ms: number): string {
  return ms.toFixed(ms < 10 ? 2 : 0).padStart(6)
}

function print(title: string, text: string): void {
  console.log(`${title.padEnd(14)}${text}`)
}

const [role, url = ''] = process.argv.slice(2)
await (role === 'observe' ? observe(url) : main())
