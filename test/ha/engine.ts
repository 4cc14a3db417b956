/**
 * A real failover engine: two PostgreSQL servers under Patroni, which agree through etcd, and HAProxy in front,
 * which leads to the primary. Commits wait for the standby (synchronous_mode), so a failover loses none.
 *
 * All of it is on loopback, in one temporary directory, and ends with this process, even by SIGKILL.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import {
  chownSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { freePort } from '../support/free-port.js'
import { NOBODY } from '../support/postgres-binaries.js'
import { pathOf } from '../support/require-programs.js'
import { until } from '../support/until.js'

/** Reads until its input closes. Then it kills every process whose pid stands in the directory, which is $0. */
const REAPER = `
trap '' HUP INT TERM
while read -r line; do :; done
for file in "$0"/*/pid "$0"/*/data/postmaster.pid; do
  [ -f "$file" ] && kill -KILL "$(head -n 1 "$file")" 2>/dev/null
done
sleep 0.5
rm -rf "$0"
`

const START_TIMEOUT_MS = 90_000
/** Patroni's least: how long a leader may be silent before the other server is promoted. */
export const LEADER_TTL_S = 20

export type NodeName = 'one' | 'two'

interface Node {
  readonly name: NodeName
  readonly restPort: number
  readonly postgresPort: number
}

/** What Patroni's REST interface says of the cluster. */
interface ClusterView {
  readonly members: readonly {
    readonly name: NodeName
    readonly role: string
    readonly state: string
    readonly host?: string
    readonly port?: number
  }[]
}

export class FailoverEngine implements AsyncDisposable {
  readonly #directory = mkdtempSync(join(tmpdir(), 'pg-membership-ha-'))
  readonly #account = process.getuid?.() === 0 ? NOBODY : undefined
  readonly #reaper: ChildProcess
  readonly #nodes: readonly Node[]
  readonly #etcdPorts: readonly [number, number]
  readonly #proxyPort: number

  private constructor(nodes: readonly Node[], etcdPorts: readonly [number, number], proxyPort: number) {
    this.#nodes = nodes
    this.#etcdPorts = etcdPorts
    this.#proxyPort = proxyPort
    if (this.#account) chownSync(this.#directory, this.#account.uid, this.#account.gid)
    this.#reaper = spawn('/bin/sh', ['-c', REAPER, this.#directory], {
      cwd: '/',
      detached: true,
      stdio: ['pipe', 'ignore', 'ignore'],
    })
    this.#reaper.unref()
  }

  /** Resolves when there are a primary and a standby that commits wait for. */
  static async start(): Promise<FailoverEngine> {
    const ports: number[] = []
    while (ports.length < 7) {
      const port = await freePort()
      if (!ports.includes(port)) ports.push(port)
    }
    const [etcd = 0, peer = 0, proxy = 0, ...rest] = ports
    const nodes = (['one', 'two'] as const).map((name, n) => ({
      name,
      restPort: rest[2 * n] ?? 0,
      postgresPort: rest[2 * n + 1] ?? 0,
    }))
    const engine = new FailoverEngine(nodes, [etcd, peer], proxy)
    try {
      engine.#startEtcd()
      engine.startNode('one')
      await engine.#until('the first server leads', async () => (await engine.primary()) === 'one')
      engine.startNode('two')
      engine.#startProxy()
      await engine.whole()
      return engine
    } catch (error) {
      await engine[Symbol.asyncDispose]()
      throw error
    }
  }

  /** Through HAProxy, which leads to whichever is the primary. */
  get url(): string {
    return urlOf(this.#proxyPort)
  }

  /** Where Patroni says which one is the primary. */
  get restUrls(): readonly string[] {
    return this.#nodes.map(({ restPort }) => `http://127.0.0.1:${String(restPort)}`)
  }

  urlOf(name: NodeName): string {
    return urlOf(this.#node(name).postgresPort)
  }

  async primary(): Promise<NodeName | undefined> {
    const view = await this.#view()
    return view?.members.find(({ role, state }) => role === 'leader' && state === 'running')?.name
  }

  /** Resolves when there are a primary and a standby that commits wait for, and HAProxy has noticed. */
  async whole(): Promise<NodeName> {
    await this.#until('a primary and a synchronous standby', async () => {
      const members = (await this.#view())?.members ?? []
      const well = (wanted: string) =>
        members.some(({ role, state }) => role === wanted && ['running', 'streaming'].includes(state))
      return well('leader') && well('sync_standby')
    })
    const primary = await this.primary()
    if (primary === undefined) throw new Error(`there is no primary any more\n${this.log()}`)
    return primary
  }

  /** As an operator does it: the primary shuts down cleanly, the standby takes over. */
  async switchOver(): Promise<void> {
    const leader = await this.whole()
    const [rest = ''] = this.restUrls
    const response = await fetch(`${rest}/switchover`, {
      method: 'POST',
      body: JSON.stringify({ leader, candidate: other(leader) }),
    })
    if (!response.ok) throw new Error(`switchover: ${String(response.status)} ${await response.text()}`)
  }

  /** Patroni, its PostgreSQL, or both: in one moment, as with a machine. */
  signal(name: NodeName, what: 'server' | 'node', signal: NodeJS.Signals): void {
    const files = [join(name, 'data', 'postmaster.pid'), ...(what === 'node' ? [join(name, 'pid')] : [])]
    const pids = files.map((file) => Number(readFileSync(join(this.#directory, file), 'utf8').split('\n')[0]))
    // Patroni first: it must not find its server gone.
    const all = [...pids.reverse(), ...(signal === 'SIGKILL' ? [] : pids.flatMap(childrenOf))]
    for (const pid of all) process.kill(pid, signal)
  }

  startNode(name: NodeName): void {
    const { restPort, postgresPort } = this.#node(name)
    const directory = this.#room(name)
    const address = (port: number) => `127.0.0.1:${String(port)}`
    const configuration = {
      scope: 'ha',
      name,
      restapi: { listen: address(restPort), connect_address: address(restPort) },
      // The older API: with the other, Patroni 3.0 (Debian 12) can lose track of its own synchronous standby.
      etcd: { hosts: address(this.#etcdPorts[0]) },
      bootstrap: {
        dcs: {
          ttl: LEADER_TTL_S,
          loop_wait: 1,
          retry_timeout: 3,
          synchronous_mode: true,
          // A server that crashed is not started again: the other one takes over.
          primary_start_timeout: 0,
          master_start_timeout: 0,
          postgresql: {
            use_pg_rewind: true,
            parameters: { max_connections: 200, wal_log_hints: 'on', fsync: 'off' },
          },
        },
        initdb: [{ encoding: 'UTF8' }, { locale: 'C' }, 'data-checksums'],
        pg_hba: ['host all all 127.0.0.1/32 trust', 'host replication all 127.0.0.1/32 trust'],
      },
      postgresql: {
        listen: address(postgresPort),
        connect_address: address(postgresPort),
        data_dir: join(directory, 'data'),
        bin_dir: serverPrograms(),
        pgpass: join(directory, 'pgpass'),
        authentication: { superuser: { username: 'postgres' }, replication: { username: 'replicator' } },
        parameters: { unix_socket_directories: directory },
      },
    }
    // JSON is YAML, too.
    writeFileSync(join(directory, 'patroni.yml'), JSON.stringify(configuration))
    this.#spawn(name, pathOf('patroni'), [join(directory, 'patroni.yml')])
  }

  /** The ends of all logs. */
  log(): string {
    return readdirSync(this.#directory)
      .map((room) => {
        const lines = readFileSync(join(this.#directory, room, 'log'), 'utf8').split('\n')
        return `== ${room}\n${lines.slice(-15).join('\n')}`
      })
      .join('\n')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#reaper.ref()
    const reaped = new Promise((resolve) => this.#reaper.once('exit', resolve))
    this.#reaper.stdin?.end()
    await reaped
  }

  #startEtcd(): void {
    const [client, peer] = this.#etcdPorts.map((port) => `http://127.0.0.1:${String(port)}`)
    const flags = {
      'data-dir': join(this.#room('etcd'), 'data'),
      'enable-v2': true,
      'listen-client-urls': client,
      'advertise-client-urls': client,
      'listen-peer-urls': peer,
      'initial-advertise-peer-urls': peer,
      'initial-cluster': `default=${String(peer)}`,
    }
    const args = Object.entries(flags).map(([name, value]) => `--${name}=${String(value)}`)
    this.#spawn('etcd', pathOf('etcd'), args)
  }

  #startProxy(): void {
    const servers = this.#nodes.map(
      ({ name, postgresPort, restPort }) =>
        `server ${name} 127.0.0.1:${String(postgresPort)} check port ${String(restPort)}`,
    )
    const configuration = join(this.#room('haproxy'), 'haproxy.cfg')
    writeFileSync(
      configuration,
      `defaults
  mode tcp
  timeout connect 2s
  timeout client 1h
  timeout server 1h
  timeout check 1s
listen primary
  bind 127.0.0.1:${String(this.#proxyPort)}
  option httpchk OPTIONS /primary
  http-check expect status 200
  default-server inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions
  ${servers.join('\n  ')}
`,
    )
    this.#spawn('haproxy', pathOf('haproxy'), ['-f', configuration])
  }

  #room(name: string): string {
    const room = join(this.#directory, name)
    mkdirSync(room, { recursive: true })
    if (this.#account) chownSync(room, this.#account.uid, this.#account.gid)
    return room
  }

  #spawn(name: string, program: string, args: readonly string[]): void {
    const room = this.#room(name)
    const log = openSync(join(room, 'log'), 'a')
    const child = spawn(program, args, {
      ...this.#account,
      cwd: room,
      env: { PATH: process.env.PATH, LC_ALL: 'C', ETCD_UNSUPPORTED_ARCH: process.arch },
      detached: true,
      stdio: ['ignore', log, log],
    })
    closeSync(log)
    child.unref()
    writeFileSync(join(room, 'pid'), String(child.pid))
  }

  #node(name: NodeName): Node {
    const node = this.#nodes.find((one) => one.name === name)
    if (node === undefined) throw new RangeError(name)
    return node
  }

  /** As the first one that answers sees it. */
  async #view(): Promise<ClusterView | undefined> {
    for (const url of this.restUrls) {
      try {
        const response = await fetch(`${url}/cluster`, { signal: AbortSignal.timeout(1_000) })
        return (await response.json()) as ClusterView
      } catch {
        // Down, or frozen: the other one knows.
      }
    }
    return undefined
  }

  async #until(message: string, condition: () => Promise<boolean>): Promise<void> {
    await until(condition, { withinMs: START_TIMEOUT_MS, message: () => `${message}\n${this.log()}` })
  }
}

export function other(name: NodeName): NodeName {
  return name === 'one' ? 'two' : 'one'
}

function urlOf(port: number): string {
  return `postgres://postgres@127.0.0.1:${String(port)}/postgres`
}

/** Backends have process groups of their own: to freeze a server is to freeze each of them. */
function childrenOf(pid: number): number[] {
  const children = readFileSync(`/proc/${String(pid)}/task/${String(pid)}/children`, 'utf8')
  return children.trim().split(' ').filter(Boolean).map(Number)
}

/** Debian and Ubuntu keep those of each version apart; the newest is taken. */
function serverPrograms(): string {
  const root = '/usr/lib/postgresql'
  const versions = readdirSync(root).sort((a, b) => Number(b) - Number(a))
  return join(root, versions[0] ?? '', 'bin')
}
