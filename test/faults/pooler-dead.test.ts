import type { PostgresClusterOptions } from 'pg-membership'
import { expect, test } from 'vitest'
import { databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { eventsOf } from '../support/event-log.js'
import { openAdmin, openPgBouncer } from '../support/opened.js'
import { until } from '../support/until.js'
import { startWorker, type Worker } from '../support/worker.js'

const TTL_MS = 3_000
const schema = await freshSchema()

test('promise 6: of processes that are killed, those behind a pooler leave when their ttl has passed; who lives stays', async () => {
  const admin = await openAdmin()
  const transaction = (await openPgBouncer('transaction')).url
  const session = (await openPgBouncer('session')).url
  const direct = databaseUrl()
  const name = uniqueName()
  const paths: Record<string, Pick<PostgresClusterOptions, 'connection' | 'listenConnection'>> = {
    direct: { connection: direct },
    transaction: { connection: transaction },
    session: { connection: session },
    'transaction, listening directly': { connection: transaction, listenConnection: direct },
  }
  const start = async (path: string, options: (typeof paths)[string]): Promise<[string, Worker]> => {
    const worker = await startWorker()
    await worker.ask('open', { schema, name, ttlMs: TTL_MS, heartbeatMs: 600, ...options })
    await worker.ask('follow')
    await worker.ask('join', { data: path })
    return [path, worker]
  }
  const all = Object.entries(paths).flatMap(([path, options]) => [start(path, options), start(path, options)])
  const workers = await Promise.all(all)
  const { rows } = await admin.query(
    `select distinct convert_from(data, 'UTF8') as path from ${schema}.members where cluster = $1 and session is not null`,
    [name],
  )
  expect(rows, 'a session is claimed only where it shows').toEqual([{ path: 'direct' }])

  // One of each path dies.
  const dying = workers.filter((_, n) => n % 2 === 0)
  const living = workers.filter((_, n) => n % 2 === 1)
  await Promise.all(dying.map(([, worker]) => worker.kill()))
  for (const [path, worker] of living) {
    await until(async () => (await worker.ask('snapshot')).members.length === living.length, {
      withinMs: 2 * (TTL_MS + 2_000),
      message: `the dead are gone from the snapshot of: ${path}`,
    })
  }

  const events = await eventsOf(admin, schema, name)
  const path = (id: string): string => events.find(({ member }) => member === id)?.data ?? ''
  const left = events.filter(({ kind }) => kind === 'left')
  expect(Object.fromEntries(left.map(({ member, reason }) => [path(member), reason]))).toEqual({
    direct: 'crashed',
    transaction: 'expired',
    session: 'expired',
    'transaction, listening directly': 'expired',
  })
  expect(left).toHaveLength(dying.length)
  for (const [, worker] of living) {
    expect(worker.toldOf('lost'), 'no lease ended').toEqual([])
    expect(worker.toldOf('uncaught')).toEqual([])
  }
})
