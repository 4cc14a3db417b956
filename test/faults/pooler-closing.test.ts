import { expect, test } from 'vitest'
import { freshSchema, uniqueName } from '../support/database.js'
import { openPgBouncer } from '../support/opened.js'
import { until } from '../support/until.js'
import { expectCleanExit, startWorker } from '../support/worker.js'

const schema = await freshSchema()
const CLOSE_TIMEOUT_MS = 1_000

test.each([
  ['transaction', 'frozen'],
  ['transaction', 'killed'],
  ['session', 'frozen'],
] as const)(
  'promises 11 and 12: with PgBouncer in %s mode %s, close is bounded, and the process ends by itself',
  async (mode, fate) => {
    const pooler = await openPgBouncer(mode)
    const worker = await startWorker()
    await worker.ask('open', {
      schema,
      name: uniqueName(),
      connection: pooler.url,
      // Deaf in transaction mode, which leaves a listener that keeps trying.
      listenConnection: pooler.url,
      ttlMs: 2_000,
      closeTimeoutMs: CLOSE_TIMEOUT_MS,
      throwingLogger: true,
    })
    await worker.ask('follow')
    await worker.ask('join', {})
    const expected = mode === 'session' ? 'listening' : 'polling'
    await until(async () => (await worker.ask('mode')) === expected, { message: `it is ${expected}` })
    if (fate === 'frozen') pooler.freeze()
    else await pooler.kill()
    const startedMs = performance.now()
    await worker.ask('close')
    expect(performance.now() - startedMs).toBeLessThan(CLOSE_TIMEOUT_MS + 1_500)
    await expectCleanExit(worker)
  },
)
