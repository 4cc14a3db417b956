/** The servers of a run, on loopback, with ports and directories of their own; they end with it. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from '../../test/support/free-port.js'

export interface Peer extends AsyncDisposable {
  readonly name: 'etcd' | 'ZooKeeper' | 'Redis'
  readonly version: string
  readonly port: number
}

export type PeerName = Peer['name']

async function listens(port: number, child: ChildProcess): Promise<void> {
  for (let n = 0; n < 300; n++) {
    if (child.exitCode !== null) throw new Error(`A server ended with ${String(child.exitCode)}`)
    const socket = connect(port, '127.0.0.1')
    const open = await Promise.race([
      once(socket, 'connect').then(() => true),
      once(socket, 'error').then(() => false),
    ]).catch(() => false)
    socket.destroy()
    if (open) return
    await sleep(100)
  }
  throw new Error(`Nothing listens on ${port}`)
}

async function run(
  name: PeerName,
  version: string,
  port: number,
  command: string,
  args: readonly string[],
  directory: string,
): Promise<Peer> {
  const child = spawn(command, args, { cwd: directory, stdio: 'ignore' })
  process.once('exit', () => child.kill('SIGKILL'))
  await listens(port, child)
  return {
    name,
    version,
    port,
    [Symbol.asyncDispose]: async () => {
      const ended = once(child, 'exit')
      child.kill('SIGTERM')
      await Promise.race([ended, sleep(5_000).then(() => child.kill('SIGKILL'))])
      rmSync(directory, { recursive: true, force: true })
    },
  }
}

function versionOf(command: string, args: readonly string[], pattern: RegExp): string | undefined {
  const { stdout, status } = spawnSync(command, args, { encoding: 'utf8' })
  return status === 0 ? (pattern.exec(stdout)?.[1] ?? 'unknown') : undefined
}

async function etcd(directory: string): Promise<Peer | undefined> {
  const version = versionOf('etcd', ['--version'], /etcd Version: (\S+)/)
  if (version === undefined) return undefined
  const [port, peerPort] = [await freePort(), await freePort()]
  const [client, peer] = [`http://127.0.0.1:${port}`, `http://127.0.0.1:${peerPort}`]
  const urls = ['--listen-client-urls', client, '--advertise-client-urls', client]
  const own = ['--listen-peer-urls', peer, '--initial-advertise-peer-urls', peer]
  const rest = ['--initial-cluster', `default=${peer}`, '--data-dir', directory, '--log-level', 'error']
  return run('etcd', version, port, 'etcd', [...urls, ...own, ...rest], directory)
}

async function redis(directory: string): Promise<Peer | undefined> {
  const version = versionOf('redis-server', ['--version'], /v=(\S+)/)
  if (version === undefined) return undefined
  const port = await freePort()
  const durable = ['--appendonly', 'yes', '--appendfsync', 'always', '--save', '']
  const args = ['--port', String(port), '--bind', '127.0.0.1', '--dir', directory, ...durable]
  return run('Redis', version, port, 'redis-server', args, directory)
}

const ZOOKEEPER_JARS = '/usr/share/java'

async function zookeeper(directory: string): Promise<Peer | undefined> {
  if (!existsSync(join(ZOOKEEPER_JARS, 'zookeeper.jar'))) return undefined
  const port = await freePort()
  mkdirSync(join(directory, 'data'))
  const config = join(directory, 'zoo.cfg')
  const settings = { dataDir: join(directory, 'data'), clientPort: port, clientPortAddress: '127.0.0.1' }
  const rest = { tickTime: 2000, 'admin.enableServer': 'false' }
  writeFileSync(
    config,
    Object.entries({ ...settings, ...rest })
      .map(([key, value]) => `${key}=${String(value)}`)
      .join('\n'),
  )
  const version = readdirSync(ZOOKEEPER_JARS).map((jar) => /^zookeeper-(\d[\d.]*)\.jar$/.exec(jar)?.[1])
  const main = 'org.apache.zookeeper.server.quorum.QuorumPeerMain'
  const args = ['-cp', `/etc/zookeeper/conf:${ZOOKEEPER_JARS}/*`, main, config]
  return run('ZooKeeper', version.find(Boolean) ?? 'unknown', port, 'java', args, directory)
}

/** Starts the peers that are installed. */
export async function startPeers(): Promise<Peer[]> {
  const peers: Peer[] = []
  for (const start of [etcd, zookeeper, redis]) {
    const peer = await start(mkdtempSync(join(tmpdir(), 'pg-membership-bench-')))
    if (peer !== undefined) peers.push(peer)
  }
  return peers
}
