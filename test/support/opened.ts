/** Opens things for a test, and closes them after it in reverse order, whether it passed or failed. */
import type { Membership, MembershipOptions, PostgresClusterOptions } from 'pg-membership'
import { PostgresCluster } from 'pg-membership'
import { onTestFinished } from 'vitest'
import { type AdminClient, adminClient, databaseUrl } from './database.js'
import { type PgBouncer, type PgBouncerOptions, type PoolMode, startPgBouncer } from './pgbouncer.js'
import { type PostgresOptions, type PostgresServer, startPostgres } from './postgres-server.js'
import { startProxy, type TcpProxy } from './tcp-proxy.js'

/**
 * A cluster of a process of its own, unless the options say whose connections it shares. By default these are
 * connections to the shared server that a cluster of an earlier test has used: opening some takes 0.15 s of processor
 * time. So a test that looks at how connections are opened or closed names its connection.
 */
export function openCluster(
  options: Omit<PostgresClusterOptions, 'connection'> & Partial<PostgresClusterOptions>,
): PostgresCluster {
  const isAny = options.connection === undefined && options.listenConnection === undefined
  const process = isAny ? (idle.pop() ?? startProcess()) : undefined
  const connection = process?.connections ?? databaseUrl()
  const cluster = new PostgresCluster({ connection, closeTimeoutMs: 1_000, ...options })
  opened.set(cluster, process)
  onTestFinished(closeAll)
  return cluster
}

const opened = new Map<PostgresCluster, PostgresCluster | undefined>()
/** Each keeps connections open, and does nothing else. */
const idle: PostgresCluster[] = []
const MAX_IDLE = 6

function startProcess(): PostgresCluster {
  return new PostgresCluster({ connection: databaseUrl(), name: 'of no test', closeTimeoutMs: 1_000 })
}

/** At once: what waits for a frozen network waits together. */
async function closeAll(): Promise<void> {
  const closing = [...opened].map(async ([cluster, process]) => {
    await cluster.close()
    if (process === undefined) return
    if (idle.length < MAX_IDLE) idle.push(process)
    else await process.close()
  })
  opened.clear()
  await Promise.all(closing)
}

/** A membership that is registered already. */
export async function joined(cluster: PostgresCluster, options?: MembershipOptions): Promise<Membership> {
  const membership = cluster.createMembership(options)
  await membership.register()
  return membership
}

export async function openAdmin(url?: string): Promise<AdminClient> {
  const admin = await adminClient(url)
  onTestFinished(() => admin[Symbol.asyncDispose]())
  return admin
}

export async function openProxy(url = databaseUrl()): Promise<TcpProxy & { readonly throughIt: string }> {
  const proxy = await startProxy(url)
  onTestFinished(() => proxy[Symbol.asyncDispose]())
  return Object.assign(proxy, { throughIt: proxy.url(url) })
}

/** A server of the test's own, to be stopped, killed and started. */
export async function openServer(settings: PostgresOptions['settings'] = {}): Promise<PostgresServer> {
  const server = await startPostgres({ fsync: false, settings })
  onTestFinished(() => server[Symbol.asyncDispose]())
  return server
}

/** A pooler of the test's own, by default in front of the shared server. */
export async function openPgBouncer(
  mode: PoolMode,
  options: Partial<PgBouncerOptions> = {},
): Promise<PgBouncer> {
  const pooler = await startPgBouncer({ url: databaseUrl(), ...options, mode })
  onTestFinished(() => pooler[Symbol.asyncDispose]())
  return pooler
}
