import { PostgresCluster } from 'pg-membership'
import type { Cluster } from 'pg-membership'
import { expect, test } from 'vitest'
import { adminClient, databaseUrl, freshSchema, uniqueName, type AdminClient } from '../support/database.js'
import { startProxy, type TcpProxy } from '../support/tcp-proxy.js'
import { until } from '../support/until.js'
import { isRefusal, type Harness, type Outcome, type Removal } from './harness.js'
import { conformance } from './suite.js'

conformance('PostgresCluster', () => PostgresHarness.start())

/** Each cluster has a proxy of its own, so that each can be cut off alone. */
class PostgresHarness implements Harness {
  readonly removals: readonly Removal[] = ['expired', 'removed']
  readonly schema: string
  readonly #admin: AdminClient
  readonly #proxies = new Map<Cluster, () => Promise<TcpProxy>>()
  readonly #started: Promise<TcpProxy>[] = []

  private constructor(schema: string, admin: AdminClient) {
    this.schema = schema
    this.#admin = admin
  }

  static async start(): Promise<PostgresHarness> {
    return new PostgresHarness(await freshSchema(), await adminClient())
  }

  uniqueName(): string {
    return uniqueName()
  }

  open(name: string, { ttlMs = 15_000 }: { readonly ttlMs?: number } = {}): Cluster {
    // Started by the first connection, or the first disconnection.
    let starting: Promise<TcpProxy> | undefined
    const proxy = (): Promise<TcpProxy> => {
      if (!starting) this.#started.push((starting = startProxy(databaseUrl())))
      return starting
    }
    const cluster = new PostgresCluster({
      name,
      connection: async () => (await proxy()).url(databaseUrl()),
      schema: this.schema,
      ttlMs,
      closeTimeoutMs: 2_000,
    })
    this.#proxies.set(cluster, proxy)
    return cluster
  }

  async remove(id: string, reason: Removal): Promise<void> {
    await until(() => (reason === 'removed' ? this.#delete(id) : this.#expire(id)), {
      message: `member ${id} is ${reason}`,
    })
  }

  async disconnect(cluster: Cluster): Promise<void> {
    await (await this.#proxyOf(cluster)).cut()
  }

  async reconnect(cluster: Cluster): Promise<void> {
    await (await this.#proxyOf(cluster)).restore()
  }

  async fence(membership: Parameters<Harness['fence']>[0]): Promise<Outcome> {
    await using client = await adminClient()
    return await fenced(client, () => membership.fence(client))
  }

  async close(): Promise<void> {
    for (const proxy of this.#started) await (await proxy)[Symbol.asyncDispose]()
    await this.#admin.end()
  }

  #proxyOf(cluster: Cluster): Promise<TcpProxy> {
    return (
      this.#proxies.get(cluster)?.() ?? Promise.reject(new TypeError('a cluster of this harness is needed'))
    )
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
async function fenced(client: AdminClient, fence: () => Promise<unknown>): Promise<Outcome> {
  await client.query('begin')
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

test('promise 13: the fence of an older registration is refused after registering again', async () => {
  const harness = await PostgresHarness.start()
  await using admin = await adminClient()
  await using cluster = harness.open(uniqueName())
  const membership = cluster.createMembership()
  await membership.register()

  const recorded: { text: string; values: unknown[] }[] = []
  await membership.fence({
    query: (text, values) => {
      recorded.push({ text, values })
      return Promise.resolve()
    },
  })
  expect(recorded).toHaveLength(1)
  const older = async (): Promise<void> => {
    for (const { text, values } of recorded) await admin.query(text, values)
  }
  expect(await fenced(admin, older)).toBe('committed')
  await membership.deregister()
  expect(await fenced(admin, older)).toBe('refused')
  await membership.register()
  expect(await fenced(admin, older)).toBe('refused')
  expect(await fenced(admin, () => membership.fence(admin))).toBe('committed')
  await cluster.close()
  await harness.close()
})

test('promise 13: a member is not removed before the transaction that is fenced by it has ended', async () => {
  const harness = await PostgresHarness.start()
  await using fencing = await adminClient()
  await using admin = await adminClient()
  await using cluster = harness.open(uniqueName())
  const membership = cluster.createMembership({ onLost: 'stay-out' })
  const lease = await membership.register()
  const members = `${harness.schema}.members`

  await fencing.query('begin')
  await membership.fence(fencing)
  await admin.query('begin')
  await admin.query(
    `update ${harness.schema}.sweeps set resumed_at = now() - interval '1 day', swept_at = clock_timestamp()`,
  )
  await admin.query(`update ${members} set heartbeat_at = now() - interval '1 day' where id = $1`, [
    membership.id,
  ])
  await admin.query(`select ${harness.schema}.sweep($1)`, [cluster.name])
  expect((await admin.query(`select from ${members} where id = $1`, [membership.id])).rowCount).toBe(1)
  await admin.query('rollback')
  await admin.query(`set lock_timeout = '100ms'`)
  await expect(admin.query(`delete from ${members} where id = $1`, [membership.id])).rejects.toMatchObject({
    code: '55P03',
  })
  expect(lease.signal.aborted).toBe(false)
  await fencing.query('commit')

  await harness.remove(membership.id, 'expired')
  await until(() => lease.signal.aborted, { message: 'the lease ends' })
  expect(await harness.fence(membership)).toBe('refused')
  await cluster.close()
  await harness.close()
})
