import type { PostgresCluster } from 'pg-membership'
import { expect, test } from 'vitest'
import { freshSchema, uniqueName } from '../support/database.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import { size } from '../support/size.js'
import type { TcpProxy } from '../support/tcp-proxy.js'
import { until } from '../support/until.js'

const schema = await freshSchema()
const CLOSE_TIMEOUT_MS = 500
/** What a busy machine may add. */
const SLACK_MS = 700

/** Clusters that share connections, each with a membership and somebody else to watch, all busy. */
async function busy(
  throughIt: string,
  freeze: () => void,
): Promise<{
  readonly clusters: readonly PostgresCluster[]
  readonly session: string
}> {
  const clusters: PostgresCluster[] = []
  for (let n = 0; n < size(5, 3); n++) {
    const name = uniqueName()
    await joined(openCluster({ schema, name }))
    const connection = clusters[0]?.connections ?? throughIt
    clusters.push(openCluster({ schema, name, connection, closeTimeoutMs: CLOSE_TIMEOUT_MS }))
  }
  const memberships = await Promise.all(clusters.map((cluster) => joined(cluster)))
  await until(() => clusters.every(({ status }) => status.mode === 'listening'), { message: 'all listen' })
  const admin = await openAdmin()
  const session = await until(
    async () => {
      const { rows } = await admin.query<{ session: string | null }>(
        `select distinct session from ${schema}.members where id = any ($1)`,
        [memberships.map(({ id }) => id)],
      )
      return rows.length === 1 ? rows[0]?.session : undefined
    },
    { message: 'their session is known' },
  )
  freeze()
  for (const [n, cluster] of clusters.entries()) {
    cluster.getMembers({ fresh: true }).catch(() => undefined)
    memberships[n]?.setData('new').catch(() => undefined)
    cluster
      .createMembership()
      .register()
      .catch(() => undefined)
  }
  return { clusters, session }
}

async function msToClose(cluster: PostgresCluster): Promise<number> {
  const startedMs = performance.now()
  await cluster.close()
  return Math.round(performance.now() - startedMs)
}

async function inParallel(clusters: readonly PostgresCluster[]): Promise<number[]> {
  return await Promise.all(clusters.map(msToClose))
}

async function oneByOne(clusters: readonly PostgresCluster[]): Promise<number[]> {
  const times: number[] = []
  for (const cluster of clusters) times.push(await msToClose(cluster))
  return times
}

const networks: Record<string, (proxy: TcpProxy) => void> = {
  'frozen in both directions': (proxy) => proxy.freeze(),
  'such that no answer comes': (proxy) => proxy.freeze({ direction: 'toClient' }),
  'frozen, and connections broke before': (proxy) => {
    proxy.reset()
    proxy.freeze()
  },
}

test.each(
  Object.entries(networks).flatMap(([network, freeze]) =>
    [inParallel, oneByOne].map((close) => [close.name, network, close, freeze] as const),
  ),
)(
  'promises 11 and 12: clusters that share connections close in time, each of them, %s, while the network is %s, and leave no connection',
  async (_how, _network, close, freeze) => {
    const [proxy, admin] = [await openProxy(), await openAdmin()]
    const { clusters, session } = await busy(proxy.throughIt, () => freeze(proxy))
    for (const ms of await close(clusters)) expect(ms).toBeLessThan(CLOSE_TIMEOUT_MS + SLACK_MS)
    proxy.thaw()
    await until(() => proxy.connections === 0, { message: 'no socket is left behind' })
    await until(
      async () => {
        const open = 'select from pg_stat_activity where application_name = $1'
        return (await admin.query(open, [session])).rowCount === 0
      },
      { message: 'no backend is left behind' },
    )
  },
)

test('promise 11: one of the clusters that share frozen connections closes in time, and the others are not disturbed', async () => {
  const proxy = await openProxy()
  const { clusters } = await busy(proxy.throughIt, () => proxy.freeze())
  const [first, ...others] = clusters
  if (first === undefined) throw new Error('there is a first')
  expect(await msToClose(first)).toBeLessThan(CLOSE_TIMEOUT_MS + SLACK_MS)
  proxy.thaw()
  await Promise.all(others.map((cluster) => cluster.getMembers({ fresh: true })))
  await Promise.all(others.map((cluster) => joined(cluster)))
})
