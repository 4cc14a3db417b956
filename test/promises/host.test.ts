import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type { PostgresClusterOptions } from 'pg-membership'
import { migrate } from 'pg-membership'
import { afterAll, expect, test } from 'vitest'
import { type AdminClient, uniqueName } from '../support/database.js'
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

/** What a program prints that does this with `url` and the library, in a process that nothing but its end is heard of. */
async function printed(program: string): Promise<unknown> {
  const script = `
    import { PostgresCluster } from 'pg-membership'
    import pg from 'pg'
    const url = process.env.URL
    const name = process.env.NAME
    const outcome = async (options, signal = AbortSignal.timeout(8_000)) => {
      const cluster = new PostgresCluster({ name, closeTimeoutMs: 500, ...options })
      const members = await cluster.getMembers({ signal }).catch((error) => error.lastError ?? error)
      await cluster.close()
      return Array.isArray(members) ? 'works' : \`\${members.name}: \${members.message}\`
    }
    ${program}`
  const { stdout, stderr } = await promisify(execFile)(
    process.execPath,
    ['--input-type=module', '-e', script],
    { env: { ...process.env, URL: server.url, NAME: uniqueName() }, timeout: 20_000 },
  )
  expect(stderr).toBe('')
  return JSON.parse(stdout)
}

test('promise 12: whatever a connection function does, the process lives: what can work works, the rest is told', async () => {
  const { outcomes } = (await printed(`
    const functions = {
      synchronous: () => url,
      thenable: () => ({ then: (resolve) => resolve(url) }),
      throws: () => { throw new TypeError('no such variable') },
      throwsNothing: () => { throw undefined },
      rejects: () => Promise.reject(new Error('no secret today')),
      nothing: () => undefined,
      pool: () => new pg.Pool(),
      client: () => new pg.Client(),
      options: () => ({ connectionString: url, options: 5 }),
      nested: () => () => url,
    }
    const outcomes = {}
    for (const [key, connection] of Object.entries(functions)) {
      const signal = AbortSignal.timeout(key.startsWith('throws') || key === 'rejects' ? 500 : 8_000)
      outcomes[key] = await outcome({ connection }, signal)
    }
    console.log(JSON.stringify({ outcomes }))`)) as { outcomes: Record<string, string> }
  expect(outcomes).toMatchObject({ synchronous: 'works', thenable: 'works' })
  expect(outcomes.throws).toBe('TypeError: no such variable')
  expect(outcomes.throwsNothing).toBe('Error: undefined')
  expect(outcomes.rejects).toBe('Error: no secret today')
  for (const refused of ['nothing', 'pool', 'client', 'options', 'nested']) {
    expect(outcomes[refused]).toMatch(/^OptionError: Option connection/)
  }
})

test('promise 12: a logger that rejects, throws, or returns what is no promise, harms nobody', async () => {
  const results = await printed(`
    const logger = (log) => ({ debug: log, info: log, warn: log, error: log })
    const reject = async () => { throw new Error('the disk is full') }
    const getter = () => ({ get then() { throw new Error('no then') } })
    const odd = () => ({ then: (resolve, reject) => { reject(new Error('later')); throw new Error('now') } })
    const results = []
    for (const log of [reject, getter, odd, () => 5]) {
      results.push(await outcome({ connection: url, logger: logger(log) }))
    }
    console.log(JSON.stringify(results))`)
  expect(results).toEqual(['works', 'works', 'works', 'works'])
})
