/**
 * What CPU of the server is used by one change, for each reader that listens; by a heartbeat, for its number of rows;
 * and by idle processes. This is the CPU time of all processes of the server as the kernel counts it, not wall time.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { hrtime } from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { PostgresCluster } from 'pg-membership'
import type { PostgresServer } from '../../test/support/postgres-server.js'
import { cpuMs, ownCpuMs } from '../lib/cpu.js'
import { summary } from '../lib/stats.js'

const HOUR_MS = 3_600_000
const QUIET = { ttlMs: 4 * HOUR_MS, heartbeatMs: HOUR_MS, pollMs: HOUR_MS } as const
const CHANGES = 200
const IDLER = fileURLToPath(new URL('../idler.ts', import.meta.url))

export interface ReadersCost {
  readonly readers: number
  /** Microseconds of the server's CPU, for one change and one reader. */
  readonly perReaderUs: number
  /** The same for as many bare connections that LISTEN, and an empty NOTIFY. */
  readonly bareUs: number
  /** Milliseconds until the last of them shows it, median. */
  readonly lastMs: number
}

/** With 0, 50 and 200 readers, which have connections of their own; the cost of a change without readers is subtracted. */
export async function readers(server: PostgresServer): Promise<ReadersCost[]> {
  const [alone, bareAlone] = [await changesSeenBy(server, 0), await notificationsHeardBy(server, 0)]
  const results: ReadersCost[] = []
  for (const count of [50, 200]) {
    const bare = await notificationsHeardBy(server, count)
    const { cpu, lastMs } = await changesSeenBy(server, count)
    const perReaderUs = (1_000 * (cpu - alone.cpu)) / count
    results.push({ readers: count, perReaderUs, bareUs: (1_000 * (bare - bareAlone)) / count, lastMs })
  }
  return results
}

/** Milliseconds of the server's CPU for one change, and until the last reader shows it (median). */
async function changesSeenBy(
  server: PostgresServer,
  count: number,
): Promise<{ cpu: number; lastMs: number }> {
  const name = `readers ${count}`
  const open = () => new PostgresCluster({ connection: server.url, name, ...QUIET })
  const writer = open()
  const membership = writer.createMembership({ data: '0' })
  await membership.register()
  const clusters: PostgresCluster[] = []
  for (let n = 0; n < count; n++) {
    const cluster = open()
    await cluster.getMembers()
    clusters.push(cluster)
  }
  while (clusters.some(({ status }) => status.mode !== 'listening')) await sleep(50)
  await sleep(2_000)
  // Meanwhile they take their turns to sweep: the cost of that is subtracted, too.
  const [idleBefore, idleFrom] = [cpuMs(server.pid ?? 0), hrtime.bigint()]
  await sleep(20_000)
  const idle = (cpuMs(server.pid ?? 0) - idleBefore) / Number(hrtime.bigint() - idleFrom)
  const last: number[] = []
  const [before, from] = [cpuMs(server.pid ?? 0), hrtime.bigint()]
  for (let n = 1; n <= CHANGES; n++) {
    const started = hrtime.bigint()
    const data = String(n)
    const all = clusters.map((cluster) => shows(cluster, membership.id, data))
    await membership.setData(data)
    await Promise.all(all)
    last.push(Number(hrtime.bigint() - started) / 1e6)
  }
  const cpu = (cpuMs(server.pid ?? 0) - before - idle * Number(hrtime.bigint() - from)) / CHANGES
  await Promise.all([writer, ...clusters].map((cluster) => cluster.close()))
  return { cpu, lastMs: count === 0 ? 0 : summary(last).median }
}

async function notificationsHeardBy(server: PostgresServer, count: number): Promise<number> {
  const open = async (): Promise<pg.Client> => {
    const client = new pg.Client({ connectionString: server.url })
    await client.connect()
    return client
  }
  const writer = await open()
  const listeners: pg.Client[] = []
  for (let n = 0; n < count; n++) {
    const listener = await open()
    await listener.query('listen bare')
    listeners.push(listener)
  }
  await sleep(2_000)
  const before = cpuMs(server.pid ?? 0)
  for (let n = 1; n <= CHANGES; n++) {
    const all = listeners.map((listener) => once(listener, 'notification'))
    await writer.query({ name: 'bare', text: `select pg_notify('bare', '')` })
    await Promise.all(all)
  }
  const cpu = (cpuMs(server.pid ?? 0) - before) / CHANGES
  await Promise.all([writer, ...listeners].map((client) => client.end()))
  return cpu
}

async function shows(cluster: PostgresCluster, id: string, data: string): Promise<void> {
  for await (const members of cluster.watchMembers()) {
    if (members.some((member) => member.id === id && member.data === data)) return
  }
}

export interface BeatCost {
  readonly rows: number
  /** Microseconds of the CPU for one heartbeat of so many registrations: of the backend that executes it. */
  readonly backendUs: number
  /** The same of the whole server, which also writes the WAL, vacuums and makes checkpoints meanwhile. */
  readonly serverUs: number
  /** Bytes of WAL a row. */
  readonly walBytes: number
}

export async function heartbeats(server: PostgresServer): Promise<BeatCost[]> {
  const results: BeatCost[] = []
  const client = new pg.Client({ connectionString: server.url })
  await client.connect()
  // As the library's own connections do.
  await client.query('set plan_cache_mode = force_generic_plan')
  const backend = (client as unknown as { processID: number }).processID
  const wal = async (): Promise<number> => {
    const { rows } = await client.query<{ at: string }>(`select pg_current_wal_insert_lsn() - '0/0' as at`)
    return Number(rows[0]?.at)
  }
  for (const rows of [1, 100, 1_000, 5_000]) {
    const cluster = new PostgresCluster({ connection: server.url, name: `beats ${rows}`, ...QUIET })
    // Members take turns: no real member sends a thousand heartbeats a second. The row versions of such heartbeats could
    // not be cleaned up in time, and would make them slow.
    const all = Array.from({ length: Math.max(rows, 1_000) }, () => cluster.createMembership())
    const leases = await Promise.all(all.map((membership) => membership.register()))
    let turn = 0
    const beat = () => {
      const [from, to] = [turn, turn + rows]
      turn = to >= all.length ? 0 : to
      const ids = all.slice(from, to).map(({ id }) => id)
      const tokens = leases.slice(from, to).map(({ token }) => token)
      return client.query({
        name: 'beat',
        text: `select h.* from unnest($1::text[], $2::text[], $3::text[]) b (cluster, ids, tokens)
               cross join lateral pgmembership.heartbeat(b.cluster, b.ids::uuid[], b.tokens::bigint[], 'bench', 0) h`,
        values: [[cluster.name], [`{${ids.join()}}`], [`{${tokens.join()}}`]],
      })
    }
    const beats = Math.max(40, Math.min(3_000, 100_000 / rows))
    for (let n = 0; n < beats / 4; n++) await beat()
    // After a checkpoint, the first change to a page logs the whole page.
    const walBefore = await wal()
    const cpu = (): number[] => [ownCpuMs(backend), cpuMs(server.pid ?? 0)]
    const before = cpu()
    for (let n = 0; n < beats; n++) await beat()
    const [backendUs = NaN, serverUs = NaN] = cpu().map(
      (ms, n) => (1_000 * (ms - (before[n] ?? NaN))) / beats,
    )
    results.push({ rows, backendUs, serverUs, walBytes: ((await wal()) - walBefore) / beats / rows })
    await cluster.close()
  }
  await client.end()
  return results
}

export interface IdleCost {
  readonly processes: number
  readonly clusters: number
  /** Share of one core. */
  readonly serverCpu: number
  readonly transactionsPerSecond: number
  readonly connectionsPerProcess: number
}

/** Each process is in all of these clusters, with one membership in each, over shared connections. */
export async function idle(server: PostgresServer, processes: number, clusters: number): Promise<IdleCost> {
  const admin = new pg.Client({ connectionString: server.url })
  await admin.connect()
  const idlers = Array.from({ length: processes }, () =>
    fork(IDLER, [server.url, `idle ${processes} ${clusters}`, String(clusters)], {
      execArgv: ['--import', 'tsx'],
    }),
  )
  await Promise.all(idlers.map((idler) => once(idler, 'message')))
  // The connections for writes are closed after 10 s without use.
  await sleep(15_000)
  const count = async (text: string): Promise<number> =>
    Number((await admin.query<{ n: string }>(text)).rows[0]?.n)
  const transactions = () => count('select sum(xact_commit + xact_rollback) as n from pg_stat_database')
  const [cpuBefore, before, started] = [cpuMs(server.pid ?? 0), await transactions(), hrtime.bigint()]
  await sleep(20_000)
  const ms = Number(hrtime.bigint() - started) / 1e6
  const serverCpu = (cpuMs(server.pid ?? 0) - cpuBefore) / ms
  const transactionsPerSecond = (1_000 * ((await transactions()) - before)) / ms
  const connections = await count(
    `select count(*) as n from pg_stat_activity where application_name like 'pg-membership %'`,
  )
  for (const idler of idlers) idler.kill('SIGKILL')
  await Promise.all(idlers.map((idler) => once(idler, 'exit')))
  await admin.end()
  const connectionsPerProcess = connections / processes
  return { processes, clusters, serverCpu, transactionsPerSecond, connectionsPerProcess }
}
