import { migrate } from 'pg-membership'
import type { PostgresClusterOptions } from 'pg-membership'
import { afterAll, expect, test } from 'vitest'
import { uniqueName, type AdminClient } from '../support/database.js'
import { expectWholeLog, tableOf } from '../support/event-log.js'
import { freePort } from '../support/free-port.js'
import { openAdmin, openProxy } from '../support/opened.js'
import { startPostgres, type StopMode } from '../support/postgres-server.js'
import { until } from '../support/until.js'
import { expectCleanExit, startWorker, type Worker } from '../support/worker.js'

const server = await startPostgres({ fsync: false })
afterAll(() => server[Symbol.asyncDispose]())
await migrate({ connection: server.url })

const schema = 'pgmembership'
const TTL_MS = 2_000

async function opened(options: Partial<PostgresClusterOptions>): Promise<Worker> {
  const worker = await startWorker()
  const timing = { ttlMs: TTL_MS, heartbeatMs: 300, closeTimeoutMs: 1_000 }
  const name = uniqueName()
  await worker.ask('open', { connection: server.url, name, throwingLogger: true, ...timing, ...options })
  return worker
}

async function backends(admin: AdminClient): Promise<number> {
  const { rowCount } = await admin.query(
    `select from pg_stat_activity where application_name like 'pg-membership %'`,
  )
  return rowCount ?? 0
}

test('promise 12: whatever befalls the server and the network, a busy process is told by its calls only, and ends cleanly', async () => {
  const name = uniqueName()
  const proxy = await openProxy(server.url)
  const worker = await opened({ connection: proxy.throughIt, name })
  await worker.ask('follow')
  await worker.ask('churn', { seed: 1, lanes: 3 })
  const progress = async (): Promise<void> => {
    const admin = await until(() => openAdmin(server.url), { message: 'the server answers' })
    const { revision } = await tableOf(admin, schema, name)
    await until(async () => (await tableOf(admin, schema, name)).revision > revision + 5, {
      withinMs: 20_000,
      message: 'the process is at work',
    })
  }
  const kill = async (): Promise<void> => {
    const admin = await openAdmin(server.url)
    await admin.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'pg-membership %'`,
    )
  }
  const restart = (mode: StopMode) => async (): Promise<void> => {
    await server.stop(mode)
    await server.start()
  }
  const lost = (): number => worker.toldOf('snapshot').length
  const faults: (() => Promise<unknown> | undefined)[] = [
    kill,
    async () => proxy.reset(),
    kill,
    async () => {
      proxy.freeze()
      const before = lost()
      const startedMs = performance.now()
      // Longer than the heartbeats' patience, so that sockets are given up.
      await until(() => performance.now() > startedMs + 1_000, { message: 'a frozen second' })
      expect(lost()).toBeLessThanOrEqual(before + 1)
      proxy.thaw()
    },
    async () => {
      await proxy.cut()
      await proxy.restore()
    },
    async () => {
      // In the middle of opening the next connection.
      const cut = proxy.cutOnce({
        direction: 'toClient',
        afterBytes: 0,
        when: ({ sent }) => sent.includes('pg_is_in_recovery()'),
      })
      proxy.reset()
      await cut
    },
    restart('fast'),
    restart('immediate'),
    restart('kill'),
    kill,
  ]
  await progress()
  for (const fault of faults) {
    await fault()
    await progress()
  }
  await worker.ask('rest')
  await worker.ask('close')
  const admin = await openAdmin(server.url)
  expect((await tableOf(admin, schema, name)).members).toEqual([])
  await expectCleanExit(worker)
  await until(async () => (await backends(admin)) === 0, { message: 'no backend is left behind' })
  await expectWholeLog(admin, schema, name)
}, 90_000)

test('promise 12: a process that closes while its network is frozen ends by itself', async () => {
  const proxy = await openProxy(server.url)
  const worker = await opened({ connection: proxy.throughIt })
  await worker.ask('follow')
  await worker.ask('join', {})
  proxy.freeze()
  await worker.ask('close')
  await expectCleanExit(worker)
})

test('promise 12: a process that closes while the server is away, or that never reached it, ends by itself', async () => {
  const nowhere = `postgres://postgres@127.0.0.1:${await freePort()}/postgres`
  const [idle, waiting] = [await opened({ connection: nowhere }), await opened({ connection: nowhere })]
  const joining = waiting.ask('join', {})
  const following = waiting.ask('follow')
  await Promise.all([idle.ask('close'), waiting.ask('close')])
  await expect(joining).rejects.toThrow('ClosedError')
  await expect(following).rejects.toThrow('ClosedError')
  await Promise.all([expectCleanExit(idle), expectCleanExit(waiting)])
})

test('promise 12: a process of which every query fails for good hears of it by its calls only', async () => {
  const worker = await opened({ schema: 'not_migrated' })
  await expect(worker.ask('join', {})).rejects.toThrow('SchemaError')
  await worker.ask('close')
  await expectCleanExit(worker)
})
