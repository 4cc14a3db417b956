/** The guide's shutdown, under requests that come one after another on connections kept alive. */
import { randomUUID } from 'node:crypto'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { Agent, get } from 'node:http'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { adminClient, databaseUrl } from '../support/database.js'
import { until } from '../support/until.js'
import { Program } from './program.js'

vi.setConfig({ testTimeout: 90_000 })

const CLIENTS = 20
const DRAIN_MS = 500
const database = `shutdown_${randomUUID().slice(0, 8)}`
const url = Object.assign(new URL(databaseUrl()), { pathname: `/${database}` }).href
const program = `test/support/shutdown-${database}.ts`

beforeAll(async () => {
  await using admin = await adminClient()
  await admin.query(`create database ${database}`)
  const guide = readFileSync(join(import.meta.dirname, '../../docs/guides/shutting-down.md'), 'utf8')
  const [snippet] = /^process\.once\('SIGTERM', async[^]*?^\}\)$/m.exec(guide) ?? []
  writeFileSync(
    program,
    `import { migrate } from 'pg-membership'
     await migrate({ connection: process.env.DATABASE_URL ?? '' })
     const { cluster, membership, pool, server, url } = await import('./snippet-app.js')
     await pool.end()
     ${String(snippet)}
     console.log('listens on', url)`,
  )
})

afterAll(async () => {
  rmSync(program, { force: true })
  await using admin = await adminClient()
  await admin.query(`drop database ${database} with (force)`)
})

test('no request is dropped, and the process ends in about the time of the drain', async () => {
  await using it = new Program(program, { DATABASE_URL: url })
  const [, address = ''] = await it.prints(/listens on (http:\S+)/)
  const agent = new Agent({ keepAlive: true })
  const errors: Error[] = []
  let answers = 0
  let isStopping = false
  /** Whether there was somebody to answer. */
  const ask = (): Promise<boolean> =>
    new Promise((resolve, reject) => {
      const request = get(address, { agent }, (response) => {
        response.resume().once('error', reject)
        response.once('end', () => resolve(true))
      })
      request.once('error', (error: NodeJS.ErrnoException) => {
        // A new connection that nobody accepted any more. Who waits for the drain to end has no other.
        const wasRefused = isStopping && !request.reusedSocket && (error.code ?? '').startsWith('ECONNRE')
        if (wasRefused) resolve(false)
        else reject(error)
      })
    })
  const client = async (): Promise<void> => {
    try {
      while (await ask()) answers++
    } catch (error) {
      errors.push(error as Error)
    }
  }
  const clients = Array.from({ length: CLIENTS }, client)
  await until(() => answers > 500, { message: 'the load is on' })
  isStopping = true
  const beganMs = performance.now()
  it.signal('SIGTERM')
  const exitCode = await it.exited()
  const tookMs = performance.now() - beganMs
  await Promise.all(clients)
  agent.destroy()
  expect({ exitCode, errors }, it.output).toEqual({ exitCode: 0, errors: [] })
  expect(tookMs).toBeGreaterThan(DRAIN_MS)
  expect(tookMs).toBeLessThan(DRAIN_MS + 2_500)
})
