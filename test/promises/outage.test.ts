import { once } from 'node:events'
import { createServer, type Server } from 'node:net'
import type { PostgresCluster } from 'pg-membership'
import { expect, test } from 'vitest'
import { databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { elapsed } from '../support/fleet.js'
import { joined, openCluster, openProxy } from '../support/opened.js'
import { size } from '../support/size.js'
import type { TcpProxy } from '../support/tcp-proxy.js'
import { until } from '../support/until.js'

const schema = await freshSchema()

/** What stands at the database's address while it is away: hangs up on whoever calls, and counts. */
class Absence {
  calls = 0
  readonly #server: Server

  constructor() {
    this.#server = createServer((socket) => {
      this.calls += 1
      socket.on('error', () => undefined)
      socket.resetAndDestroy()
    })
  }

  async begin(proxy: TcpProxy): Promise<void> {
    await proxy.cut()
    await once(this.#server.listen(proxy.port, '127.0.0.1'), 'listening')
  }

  async end(proxy: TcpProxy): Promise<void> {
    this.#server.close()
    await once(this.#server, 'close')
    await proxy.restore()
  }

  /** How many calls come in this time. */
  async callsIn(ms: number): Promise<number> {
    const before = this.calls
    await elapsed(performance.now(), ms)
    return this.calls - before
  }
}

/** Clusters of one process, each with a membership; somebody else is a member of each, so they all sweep. */
async function openProcess(throughIt: string, count: number): Promise<PostgresCluster[]> {
  const clusters: PostgresCluster[] = []
  for (let n = 0; n < count; n++) {
    const name = uniqueName()
    await joined(openCluster({ schema, name }))
    const connection = clusters[0]?.connections ?? throughIt
    clusters.push(openCluster({ schema, name, connection, ttlMs: 2_000, heartbeatMs: 400 }))
  }
  return clusters
}

test.each([1, 5].slice(size(0, 1)))(
  'promise 11: during a long outage a process with %i clusters makes one or two attempts a second to connect, and is back soon after it',
  async (count) => {
    const [proxy, absence] = [await openProxy(), new Absence()]
    const clusters = await openProcess(proxy.throughIt, count)
    const memberships = await Promise.all(clusters.map((cluster) => joined(cluster)))
    await until(() => clusters.every(({ status }) => status.mode === 'listening'), { message: 'all listen' })
    for (let round = 0; round < 2; round++) {
      const leases = memberships.map((membership) => membership.lease)
      await absence.begin(proxy)
      await until(() => leases.every((lease) => lease?.signal.aborted), { message: 'the leases end' })
      // Somebody waits, too.
      const waiting = Promise.all([
        ...clusters.map((cluster) => cluster.getMembers({ fresh: true })),
        ...memberships.map((membership) => membership.setData(`round ${round}`)),
      ])
      waiting.catch(() => undefined)
      const calls = await absence.callsIn(4_000)
      expect(calls).toBeGreaterThanOrEqual(2)
      expect(calls).toBeLessThanOrEqual(9)
      await absence.end(proxy)
      const startedMs = performance.now()
      await Promise.all([waiting, ...memberships.map((membership) => membership.whenRegistered())])
      await until(() => clusters.every(({ status }) => status.mode === 'listening'), {
        message: 'all listen',
      })
      // It takes a second or so; a busy machine may add to it. A backoff that went on growing would take longer.
      expect(performance.now() - startedMs).toBeLessThan(6_000)
    }
  },
  60_000,
)

test('promise 7: while its lease runs, a process that has lost all its connections tries at least every quarter of its grace', async () => {
  const [proxy, absence] = [await openProxy(), new Absence()]
  const cluster = openCluster({ schema, name: uniqueName(), connection: proxy.throughIt, crashGraceMs: 400 })
  const membership = await joined(cluster)
  await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
  await absence.begin(proxy)
  const calls = await absence.callsIn(3_000)
  // One in 100 ms at the latest; a busy machine may be late. Once a second, as without a lease, is far below.
  expect(calls).toBeGreaterThan(12)
  expect(calls).toBeLessThan(70)
  expect(membership.lease).toBeDefined()
  await absence.end(proxy)
})

test('promise 11: a database that takes longer to let in than one attempt may last is reached all the same', async () => {
  // As when all processes start at once: each that gave up and began again would make it longer for all.
  const connection = async (): Promise<string> => {
    await elapsed(performance.now(), 700)
    return databaseUrl()
  }
  const cluster = openCluster({
    schema,
    name: uniqueName(),
    connection,
    listenConnection: false,
    ttlMs: 1_000,
  })
  const membership = await joined(cluster)
  expect(membership.lease).toBeDefined()
})

test('promise 11: a process that only reads makes one or two attempts a second, too', async () => {
  const [proxy, absence] = [await openProxy(), new Absence()]
  const cluster = openCluster({ schema, name: uniqueName(), connection: proxy.throughIt })
  await joined(openCluster({ schema, name: cluster.name }))
  await cluster.getMembers()
  await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
  await absence.begin(proxy)
  await until(() => absence.calls >= 6, { message: 'the first attempts come sooner' })
  const waiting = cluster.getMembers({ fresh: true })
  waiting.catch(() => undefined)
  const calls = await absence.callsIn(4_000)
  expect(calls).toBeGreaterThanOrEqual(2)
  expect(calls).toBeLessThanOrEqual(9)
  await absence.end(proxy)
  const startedMs = performance.now()
  await waiting
  await until(() => cluster.status.mode === 'listening', { message: 'it listens again' })
  expect(performance.now() - startedMs).toBeLessThan(6_000)
})
