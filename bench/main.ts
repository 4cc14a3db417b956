/**
 * npm run bench [-- arm ...]: measures, prints a table, writes results.json beside this file, and the plots in docs/.
 * README.md says what each arm measures. Nothing else may run on the machine meanwhile.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import { migrate } from 'pg-membership'
import { type PostgresServer, startPostgres } from '../test/support/postgres-server.js'
import { type Changes, changes } from './arms/changes.js'
import { claimed } from './arms/claims.js'
import { crashes } from './arms/crash.js'
import { type Convergence, convergence, rollingRestart } from './arms/growth.js'
import { fromList, taken } from './arms/nonces.js'
import { cached, fanOut, start } from './arms/process.js'
import { choosing } from './arms/ring.js'
import { heartbeats, idle, readers } from './arms/server-cpu.js'
import { disturbance, load, machine } from './lib/machine.js'
import { startPeers } from './lib/servers.js'
import { digits } from './lib/stats.js'
import { bars, curves } from './lib/svg.js'

/** The least time that any design takes on this machine: see arms/changes.ts. */
const FLOOR = 'bare INSERT + NOTIFY -> seen'
const PLOTS = join(import.meta.dirname, '../docs/plots')
/** More than the default of a hundred connections, where an arm needs more; everything else is the default. */
const MANY = { max_connections: '1000' }

type Line = readonly [what: string, figure: string]

interface Outcome {
  readonly lines: readonly Line[]
  readonly data: unknown
  /** In milliseconds, where it was measured. */
  readonly floorMs?: number | undefined
  readonly plots?: Readonly<Record<string, string>>
}

async function withPostgres<T>(
  settings: Readonly<Record<string, string>>,
  use: (server: PostgresServer) => Promise<T>,
): Promise<T> {
  await using server = await startPostgres({ fsync: true, settings })
  await migrate({ connection: server.url })
  return await use(server)
}

function tableOf(all: Changes, unit: string): Line[] {
  const floor = all[unit]?.median ?? NaN
  return Object.entries(all).map(([what, { median, p99 }]) => [
    what,
    `${digits(median)} ms   p99 ${digits(p99)}   x ${digits(median / floor)}`,
  ])
}

function plotOf(title: string, all: Changes): string {
  return bars(
    title,
    Object.entries(all)
      .filter(([what]) => what.endsWith('seen'))
      .map(([what, { median }]) => ({
        label: what.replace(' -> seen', ''),
        value: median,
        text: `${digits(median)} ms`,
        isOurs: what.includes('()'),
      })),
  )
}

function growthPlot(all: readonly Convergence[], which: 'oneMs' | 'burstMs', title: string): string {
  const sizes = [...new Set(all.map(({ members }) => members))]
  return curves(
    title,
    'readers',
    'ms until all show it',
    sizes.map((size) => ({
      label: `${size} members`,
      points: all.filter(({ members }) => members === size).map((one) => [one.readers, one[which]] as const),
    })),
  )
}

const ARMS: Readonly<Record<string, () => Promise<Outcome>>> = {
  alone: async () => {
    const data = await withPostgres({}, (server) => changes(server.url, []))
    const plots = { alone: plotOf('One change, until another process has it (median)', data) }
    return { data, lines: tableOf(data, FLOOR), floorMs: data[FLOOR]?.median, plots }
  },
  peers: async () => {
    const peers = await startPeers()
    try {
      const data = await withPostgres({}, (server) => changes(server.url, peers))
      const versions: Line[] = peers.map(({ name, version }) => [name, version])
      const plots = { peers: plotOf('One change, until another process has it (median)', data) }
      const etcd = data['etcd join -> seen']?.median
      const ours = data['register() -> seen']?.median
      const ratio: Line[] = etcd && ours ? [['register() -> seen, x etcd', digits(ours / etcd)]] : []
      const lines = [...versions, ...tableOf(data, FLOOR), ...ratio]
      return { data: { versions, changes: data }, lines, floorMs: data[FLOOR]?.median, plots }
    } finally {
      for (const peer of peers) await peer[Symbol.asyncDispose]()
    }
  },
  readers: async () => {
    const data = await withPostgres(MANY, readers)
    const lines = data.map(({ readers, perReaderUs, bareUs, lastMs }): Line => [
      `one change, ${readers} readers`,
      `${digits(perReaderUs)} us of the server's CPU for each (a bare LISTEN: ${digits(bareUs)})   the last shows it after ${digits(lastMs)} ms`,
    ])
    return { data, lines }
  },
  heartbeats: async () => {
    const data = await withPostgres({}, heartbeats)
    const lines = data.map(({ rows, backendUs, serverUs, walBytes }): Line => [
      `heartbeat, ${rows} registrations`,
      `${digits(backendUs)} us of the backend's CPU, ${digits(backendUs / rows)} a row   ${digits(serverUs / rows)} of the server's   ${digits(walBytes)} bytes of WAL a row`,
    ])
    return { data, lines }
  },
  idle: async () => {
    const data = []
    for (const [processes, clusters] of [
      [3, 1],
      [100, 1],
      [2, 300],
    ] as const) {
      data.push(await withPostgres(MANY, (server) => idle(server, processes, clusters)))
    }
    const lines = data.map(
      ({ processes, clusters, serverCpu, transactionsPerSecond, connectionsPerProcess }): Line => [
        `idle: ${processes} processes, ${clusters} clusters each`,
        `${digits(100 * serverCpu)} % of a core   ${digits(transactionsPerSecond)} transactions/s   ${digits(connectionsPerProcess)} connections a process`,
      ],
    )
    return { data, lines }
  },
  crash: async () => {
    const data = await withPostgres(MANY, async ({ url }) => [
      await crashes(url, 5, 30),
      await crashes(url, 2, 10),
      await crashes(url, 50, 10),
    ])
    const lines = data.map(({ processes, gone, reasons, sweepsPerSecond }): Line => [
      `SIGKILL -> gone, ${processes} processes`,
      `${digits(gone.median)} ms   at most ${digits(gone.max)}   (${reasons}; ${digits(sweepsPerSecond)} sweeps/s)`,
    ])
    return { data, lines }
  },
  process: async () => {
    const cachedUs = await withPostgres({}, ({ url }) => cached(url))
    const [fans, started] = [await fanOut(), start()]
    const lines: Line[] = [
      ['getMembers() from the cache', `${digits(cachedUs)} us`],
      ...fans.map(({ watchers, ms }): Line => [`one change to ${watchers} watchers`, `${digits(ms)} ms`]),
      ['import', `${digits(started.importMs)} ms`],
      ['installed', `${digits(started.installedBytes / 2 ** 20)} MiB in ${started.packages} packages`],
    ]
    return { data: { cachedUs, fans, started }, lines }
  },
  ring: async () => {
    const data = choosing()
    const lines = data.flatMap(
      ({ members, makeMs, ownerUs, weighedUs, threeOwnersUs, routerUs, ejectedUs, pickUs }): Line[] => [
        [
          `a ring of ${members}`,
          `${digits(makeMs)} ms   owner ${digits(ownerUs)} us, by weights ${digits(weighedUs)} us   three owners ${digits(threeOwnersUs)} us`,
        ],
        [
          `a router among ${members}`,
          `owner ${digits(routerUs)} us, with one ejected ${digits(ejectedUs)} us   pick ${digits(pickUs)} us`,
        ],
      ],
    )
    return { data, lines }
  },
  growth: async () => {
    const data = await withPostgres(MANY, ({ url }) => convergence(url))
    const lines = data.map(({ members, readers, startMs, oneMs, burstMs }): Line => [
      `${members} members, ${readers} readers`,
      `one change ${digits(oneMs)} ms   a hundred ${digits(burstMs)} ms   all start ${digits(startMs)} ms`,
    ])
    const plots = {
      'growth-one': growthPlot(data, 'oneMs', 'One change, until all readers show it'),
      'growth-burst': growthPlot(data, 'burstMs', 'A hundred changes at once, until all readers show them'),
    }
    return { data, lines, plots }
  },
  claims: async () => {
    const data = await withPostgres({}, ({ url }) => claimed(url))
    const lines = data.map(({ keys, claim, release }): Line => [
      `${keys} keys`,
      `claim ${digits(claim.median)} ms   p99 ${digits(claim.p99)}   release ${digits(release.median)} ms   p99 ${digits(release.p99)}`,
    ])
    return { data, lines }
  },
  nonces: async () => {
    const listUs = await withPostgres({}, ({ url }) => fromList(url))
    const all = await withPostgres({}, ({ url }) => taken(url))
    const lines = all.map(({ processes, way, perSecond }): Line => [
      `${processes} processes, ${way === 'by hand' ? 'for update skip locked' : `${way} at hand`}`,
      `${digits(perSecond)} values a second in all`,
    ])
    return { data: { listUs, all }, lines: [['take() of a value at hand', `${digits(listUs)} us`], ...lines] }
  },
  restart: async () => {
    const data = await withPostgres(MANY, ({ url }) => rollingRestart(url))
    const what = `rolling restart, ${data.processes * data.membershipsEach} registrations`
    return { data, lines: [[what, `${digits(data.ms)} ms`]] }
  },
}

async function postgresVersion(): Promise<string> {
  return await withPostgres({}, async ({ url }) => {
    const client = new pg.Client({ connectionString: url })
    await client.connect()
    const { rows } = await client.query<{ server_version: string }>('show server_version')
    await client.end()
    return rows[0]?.server_version ?? 'unknown'
  })
}

const wanted = process.argv.slice(2)
const unknown = wanted.filter((name) => ARMS[name] === undefined)
if (unknown.length > 0) {
  console.error(`No such arm: ${unknown.join(', ')}. There are: ${Object.keys(ARMS).join(', ')}`)
  process.exit(2)
}
mkdirSync(PLOTS, { recursive: true })
const loadBefore = load()
const context = { ...machine(), postgres: await postgresVersion(), loadBefore, at: new Date().toISOString() }
console.log(
  `${context.cores} cores (${context.cpu}), PostgreSQL ${context.postgres} with fsync on, Node ${context.node}`,
)
const commit = spawnSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).stdout.trim()
const RESULTS = join(import.meta.dirname, 'results.json')
/** The results of the last run of each arm. */
const results: Record<string, unknown> = existsSync(RESULTS)
  ? (JSON.parse(readFileSync(RESULTS, 'utf8')) as Record<string, unknown>)
  : {}
const disturbances: string[] = []
let isFirst = true
for (const [name, arm] of Object.entries(ARMS)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue
  const { lines, data, floorMs, plots = {} } = await arm()
  // The load that earlier arms have left is no disturbance.
  const disturbed = disturbance(isFirst ? loadBefore : 0, floorMs)
  isFirst = false
  if (disturbed !== undefined) disturbances.push(`${name}: ${disturbed}`)
  console.log(`\n${name}`)
  for (const [what, figure] of lines) console.log(`  ${what.padEnd(42)}${figure}`)
  for (const [file, svg] of Object.entries(plots)) writeFileSync(join(PLOTS, `${file}.svg`), svg)
  results[name] = { quiet: disturbed === undefined, ...context, commit, data }
  writeFileSync(RESULTS, `${JSON.stringify(results, undefined, 2)}\n`)
}
for (const disturbed of disturbances) console.log(`\nNOT QUIET, publish nothing of it: ${disturbed}`)
