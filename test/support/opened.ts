/** Opens things for a test, and closes them after it in reverse order, whether it passed or failed. */
import type { Membership, MembershipOptions, PostgresClusterOptions } from 'pg-membership'
import { PostgresCluster } from 'pg-membership'
import { onTestFinished } from 'vitest'
import { type AdminClient, adminClient, databaseUrl } from './database.js'
import { type PgBouncer, type PgBouncerOptions, type PoolMode, startPgBouncer } from './pgbouncer.js'
import { type PostgresOptions, type PostgresServer, startPostgres } from './postgres-server.js'
import { startProxy, type TcpProxy } from './tcp-proxy.js'

export function openCluster(
  options: Omit<PostgresClusterOptions, 'connection'> & Partial<PostgresClusterOptions>,
): PostgresCluster {
  const cluster = new PostgresCluster({ connection: databaseUrl(), closeTimeoutMs: 1_000, ...options })
  opened.add(cluster)
  onTestFinished(closeAll)
  return cluster
}

const opened = new Set<PostgresCluster>()

/** At once: what waits for a frozen network waits together. */
async function closeAll(): Promise<void> {
  const closing = [...opened].map((cluster) => cluster.close())
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
