import type { Cluster, QueryClient } from 'pg-membership'
import { PostgresCluster } from 'pg-membership'
import { type AdminClient, adminClient, databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { startProxy, type TcpProxy } from '../support/tcp-proxy.js'
import { until } from '../support/until.js'
import { type Harness, isRefusal, type OpenOptions, type Outcome, type Removal } from './harness.js'

const CLOSE_TIMEOUT_MS = 2_000

/** Where the clusters are, and as whom one comes there. */
export interface Place {
  readonly schema: string
  /** For looking and breaking from outside. */
  readonly adminUrl: string
  /** For the clusters, and the transactions that they fence. */
  readonly url: string
  /** false: each cluster opens connections of its own, and closes them. Default: see PostgresHarness. */
  readonly reuse?: boolean
  /** The clusters are to LISTEN at this address, although it looks like a pooler's. */
  readonly listens?: boolean
  /** Called when all is over. */
  readonly closed?: () => Promise<void>
}

/** The connections of one process, behind a proxy of their own, so that they can be cut off alone. */
interface Process {
  /** Keeps the connections open. */
  readonly owner: PostgresCluster
  readonly proxy: () => Promise<TcpProxy>
  /** A later test may use them. */
  whole: boolean
}

/**
 * Each cluster of a test has connections that no other cluster of this test has. Opening them costs more than most
 * tests do. So a later test uses them again, if this one did not cut them off.
 */
export class PostgresHarness implements Harness {
  readonly removals: readonly Removal[] = ['expired', 'removed']
  readonly schema: string
  readonly #place: Place
  readonly #admin: AdminClient
  readonly #processes = new Map<Cluster, Process>()
  readonly #free: Process[] = []
  readonly #started: Promise<TcpProxy>[] = []

  private constructor(place: Place, admin: AdminClient) {
    this.schema = place.schema
    this.#place = place
    this.#admin = admin
  }

  /** By default in a schema of its own on the server that all share, as a superuser. */
  static async start(given?: Place): Promise<PostgresHarness> {
    const place = given ?? { schema: await freshSchema(), adminUrl: databaseUrl(), url: databaseUrl() }
    return new PostgresHarness(place, await adminClient(place.adminUrl))
  }

  uniqueName(): string {
    return uniqueName()
  }

  open(name: string, { ttlMs = 15_000 }: OpenOptions = {}): Cluster {
    const process = this.#free.pop() ?? this.#startProcess()
    const connection = process.owner.connections
    const cluster = new PostgresCluster({
      name,
      connection,
      schema: this.schema,
      ttlMs,
      closeTimeoutMs: CLOSE_TIMEOUT_MS,
    })
    this.#processes.set(cluster, process)
    return cluster
  }

  async release(cluster: Cluster): Promise<void> {
    const process = this.#processes.get(cluster)
    this.#processes.delete(cluster)
    if (process?.whole === true) this.#free.push(process)
    else await process?.owner.close()
  }

  async remove(id: string, reason: Removal): Promise<void> {
    await until(() => (reason === 'removed' ? this.#delete(id) : this.#expire(id)), {
      message: `member ${id} is ${reason}`,
    })
  }

  async disconnect(cluster: Cluster): Promise<void> {
    const process = this.#processOf(cluster)
    process.whole = false
    await (await process.proxy()).cut()
  }

  async reconnect(cluster: Cluster): Promise<void> {
    await (await this.#processOf(cluster).proxy()).restore()
  }

  async inTransaction(fence: (client: QueryClient) => Promise<void>): Promise<Outcome> {
    await using client = await adminClient(this.#place.url)
    return await fenced(client, () => fence(client))
  }

  async close(): Promise<void> {
    await Promise.all([...this.#free, ...this.#processes.values()].map(({ owner }) => owner.close()))
    for (const proxy of this.#started) await (await proxy)[Symbol.asyncDispose]()
    await this.#admin.end()
    await this.#place.closed?.()
  }

  #startProcess(): Process {
    // Started by the first connection, or the first disconnection.
    let starting: Promise<TcpProxy> | undefined
    const proxy = (): Promise<TcpProxy> => {
      if (!starting) this.#started.push((starting = startProxy(this.#place.url)))
      return starting
    }
    const connection = async (): Promise<string> => (await proxy()).url(this.#place.url)
    const owner = new PostgresCluster({
      name: uniqueName(),
      connection,
      ...(this.#place.listens === true ? { listenConnection: connection } : {}),
      schema: this.schema,
      closeTimeoutMs: CLOSE_TIMEOUT_MS,
    })
    return { owner, proxy, whole: this.#place.reuse !== false }
  }

  #processOf(cluster: Cluster): Process {
    const process = this.#processes.get(cluster)
    if (process === undefined) throw new TypeError('a cluster of this harness is needed')
    return process
  }

  async #delete(id: string): Promise<boolean> {
    await this.#admin.query(`delete from ${this.schema}.members where id = $1`, [id])
    return true
  }

  /** Silence in a few milliseconds. In one transaction, so that no heartbeat comes in between. */
  async #expire(id: string): Promise<boolean> {
    const { schema } = this
    const admin = this.#admin
    await admin.query('begin')
    try {
      const registration = await admin.query<{ cluster: string; token: string }>(
        `select cluster, token from ${schema}.members where id = $1`,
        [id],
      )
      const [row] = registration.rows
      if (row) {
        await admin.query(
          `update ${schema}.sweeps set resumed_at = clock_timestamp() - interval '1 day',
             swept_at = clock_timestamp() where cluster = $1`,
          [row.cluster],
        )
        await admin.query(
          `update ${schema}.members set heartbeat_at = clock_timestamp() - interval '1 day' where id = $1`,
          [id],
        )
        await admin.query(`select ${schema}.sweep($1)`, [row.cluster])
      }
      const left = await admin.query(`select from ${schema}.members where id = $1`, [id])
      await admin.query(left.rowCount === 0 ? 'commit' : 'rollback')
      return left.rowCount === 0
    } catch (error) {
      await admin.query('rollback')
      throw error
    }
  }
}

/** A transaction that begins with this fence. Whatever a refusal is answered with, it must not commit. */
export async function fenced(client: AdminClient, fence: () => Promise<unknown>): Promise<Outcome> {
  await client.query('begin read write')
  try {
    await fence()
  } catch (error) {
    await client.query('rollback')
    if (isRefusal(error)) return 'refused'
    throw error
  }
  const { command } = await client.query('commit')
  return command === 'COMMIT' ? 'committed' : 'refused'
}
