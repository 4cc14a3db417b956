import { migrate } from 'pg-membership'
import { afterAll, expect, test } from 'vitest'
import { type AdminClient, uniqueName } from '../support/database.js'
import { expectWholeLog, tableOf } from '../support/event-log.js'
import { freePort } from '../support/free-port.js'
import { whenCallBlocked } from '../support/locks.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import { startPostgres } from '../support/postgres-server.js'
import type { TcpProxy } from '../support/tcp-proxy.js'
import { until } from '../support/until.js'
import { expectCleanExit, startWorker, type Worker } from '../support/worker.js'

const server = await startPostgres({ fsync: false })
afterAll(() => server[Symbol.asyncDispose]())
await migrate({ connection: server.url })

const schema = 'pgmembership'
const CLOSE_TIMEOUT_MS = 1_000
/** What a busy machine may add. */
const SLACK_MS = 1_500

interface Scene {
  readonly admin: AdminClient
  readonly locking: AdminClient
  readonly proxy: TcpProxy
  readonly name: string
  readonly worker: Worker
  /** Opens the worker's cluster, through the proxy unless told otherwise. */
  open(options?: { connection?: string; hanging?: 'connection' | 'names' }): Promise<unknown>
}

async function scene(): Promise<Scene> {
  const [admin, locking] = [await openAdmin(server.url), await openAdmin(server.url)]
  const [proxy, worker, name] = [await openProxy(server.url), await startWorker(), uniqueName()]
  const times = { closeTimeoutMs: CLOSE_TIMEOUT_MS }
  const open: Scene['open'] = (options) =>
    worker.ask('open', { name, connection: proxy.throughIt, throwingLogger: true, ...times, ...options })
  return { admin, locking, proxy, name, worker, open }
}

async function noBackend(): Promise<void> {
  const admin = await openAdmin(server.url)
  const left = async (): Promise<number> => {
    const { rowCount } = await admin.query(
      `select from pg_stat_activity where application_name like 'pg-membership %'`,
    )
    return rowCount ?? 0
  }
  await until(async () => (await left()) === 0, { withinMs: 5_000, message: 'no backend is left behind' })
}

/** Something is asked and cannot be answered. */
async function ask({ worker, proxy }: Scene, connections = 1): Promise<void> {
  worker.ask('join', {}).catch(() => undefined)
  await until(() => proxy.connections >= connections, { message: 'something is under way' })
}

/** There is no trouble to end. */
const nothing = (): Promise<void> => Promise.resolve()

/** What the process is up to when it closes; returns how the trouble ends, after the process has. */
const situations: Record<string, (its: Scene) => Promise<() => Promise<unknown>>> = {
  'the server is down': async (its) => {
    await its.open()
    await its.worker.ask('join', {})
    await server.stop()
    return () => server.start()
  },
  'the server is restarting': async (its) => {
    await its.open()
    await its.worker.ask('join', {})
    await server.stop('immediate')
    const starting = server.start()
    return () => starting
  },
  'nobody listens at the address': async (its) => {
    await its.open({ connection: `postgres://postgres@127.0.0.1:${await freePort()}/postgres` })
    its.worker.ask('join', {}).catch(() => undefined)
    return nothing
  },
  'answers do not get through': async (its) => {
    await its.open()
    await its.worker.ask('join', {})
    its.proxy.freeze({ direction: 'toClient' })
    return async () => its.proxy.thaw()
  },
  'nothing gets through': async (its) => {
    await its.open()
    await its.worker.ask('join', {})
    its.proxy.freeze()
    return async () => its.proxy.thaw()
  },
  'it is connecting, and the server is silent': async (its) => {
    its.proxy.freeze({ direction: 'toClient' })
    await its.open()
    await ask(its, 2)
    return async () => its.proxy.thaw()
  },
  'it is connecting again': async (its) => {
    await its.open()
    await its.worker.ask('join', {})
    its.proxy.delay(50)
    its.proxy.reset()
    return nothing
  },
  'it registers, and waits for a lock': async (its) => {
    await its.open()
    await its.worker.ask('join', {})
    await its.locking.query('begin')
    await its.locking.query(`select from ${schema}.clusters where name = $1 for update`, [its.name])
    its.worker.ask('join', {}).catch(() => undefined)
    await whenCallBlocked(its.admin, schema, 'register')
    // It is not the end of the lock that frees its backends.
    return noBackend
  },
  'somebody holds its row': async (its) => {
    await its.open()
    await its.worker.ask('join', {})
    await its.locking.query('begin')
    await its.locking.query(`select from ${schema}.members where cluster = $1 for update`, [its.name])
    return noBackend
  },
  'the function that finds the connection hangs': async (its) => {
    await its.open({ hanging: 'connection' })
    its.worker.ask('join', {}).catch(() => undefined)
    its.worker.ask('follow').catch(() => undefined)
    return nothing
  },
  'the resolver of names hangs': async (its) => {
    await its.open({ hanging: 'names', connection: 'postgres://postgres@database.internal/postgres' })
    its.worker.ask('join', {}).catch(() => undefined)
    its.worker.ask('follow').catch(() => undefined)
    return nothing
  },
}

test.each(Object.entries(situations))(
  'promises 11 and 12: a process that closes while %s does so in time, leaves nothing behind, and ends by itself',
  async (_what, bringAbout) => {
    const its = await scene()
    const end = await bringAbout(its)
    const startedMs = performance.now()
    await its.worker.ask('close')
    expect(performance.now() - startedMs).toBeLessThan(CLOSE_TIMEOUT_MS + SLACK_MS)
    await expectCleanExit(its.worker)
    await end()
    await its.locking.query('rollback').catch(() => undefined)
    await noBackend()
    await until(() => its.proxy.connections === 0, { message: 'no connection is left behind' })
  },
)

test('promises 11 and 12: whenever a cluster is closed after its connections broke, it leaves and leaves nothing behind', async () => {
  const [admin, proxy, name] = [await openAdmin(server.url), await openProxy(server.url), uniqueName()]
  for (let ms = 0; ms < 40; ms += 2) {
    const cluster = openCluster({ name, connection: proxy.throughIt, closeTimeoutMs: 5_000 })
    await joined(cluster)
    proxy.reset()
    const resetMs = performance.now()
    while (performance.now() < resetMs + ms) await new Promise((resolve) => setImmediate(resolve))
    await cluster.close()
    expect((await tableOf(admin, schema, name)).members, `${ms} ms`).toEqual([])
  }
  await noBackend()
  await until(() => proxy.connections === 0, { message: 'no connection is left behind' })
  await expectWholeLog(admin, schema, name)
})
