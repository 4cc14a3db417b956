/**
 * Invoice numbers from a list, each used once, whatever dies in between.
 *
 *   DATABASE_URL=postgres://… npx tsx examples/invoices.ts
 *
 * Start it several times, and kill -9 some of them: no number is used twice, and none is lost. What a process had at
 * hand when it died is used by the others about a second later.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { migrate, PostgresCluster } from 'pg-membership'
import { EmptyError, NoncePool } from 'pg-membership/nonces'

const connection = process.env.DATABASE_URL ?? 'postgres://localhost/postgres'
await migrate({ connection })

const stopping = new AbortController()
for (const name of ['SIGINT', 'SIGTERM']) process.once(name, () => stopping.abort())

const pool = new pg.Pool({ connectionString: connection, max: 1 })
// A connection that breaks, idle or between two queries, must find a listener, or the process ends.
pool.on('error', (error) => console.error(error.message))
pool.on('connect', (client) => client.on('error', () => undefined))
await pool
  .query('create table if not exists invoices_example (number text, at timestamptz)')
  .catch(() => undefined)

const cluster = new PostgresCluster({ connection, name: 'invoices-example' })
const membership = cluster.createMembership({ data: `process ${process.pid}` })
await membership.register()
const numbers = new NoncePool({ cluster, membership, name: 'invoice numbers', size: 10 })
// Those that are there already are left alone.
await numbers.stock(Array.from({ length: 1_000 }, (_, n) => `2026-${String(n + 1).padStart(4, '0')}`))

async function writeInvoice(): Promise<void> {
  const nonce = await numbers.take(stopping)
  const client = await pool.connect()
  let isCommitted = false
  try {
    await client.query('begin')
    await nonce.use(client)
    await client.query('insert into invoices_example values ($1, clock_timestamp())', [nonce.value])
    await client.query('commit')
    isCommitted = true
    console.log(`process ${process.pid} wrote invoice ${nonce.value}`)
  } finally {
    client.release(!isCommitted) // true: closes the connection, and with it what is left of the transaction
    if (!isCommitted) await nonce.release() // unless it was used after all: then it stays so
  }
}

while (!stopping.signal.aborted) {
  try {
    await writeInvoice()
  } catch (error) {
    // Aborted by the signal, which ends the loop; or the number is not used, and somebody else's turn.
    console.error(String(error))
    if (error instanceof EmptyError) break
  }
  await sleep(100, undefined, { signal: stopping.signal }).catch(() => undefined)
}
await numbers.close()
await cluster.close()
await pool.end()
