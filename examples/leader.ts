/**
 * A leader, without an election: the member that registered first leads, and all processes see the same order.
 *
 *   DATABASE_URL=postgres://… npx tsx examples/leader.ts
 *
 * Start it several times and stop the leader with Ctrl-C, kill -9 or kill -STOP: the next one takes over,
 * and no two ever commit side by side. The fence prevents it, also when a leader was only asleep.
 */
import pg from 'pg'
import { migrate, PostgresCluster } from 'pg-membership'
import { Leader, type Term } from 'pg-membership/leader'

const connection = process.env.DATABASE_URL ?? 'postgres://localhost/postgres'
await migrate({ connection })

const stopping = new AbortController()
for (const name of ['SIGINT', 'SIGTERM']) process.once(name, () => stopping.abort())

const pool = new pg.Pool({ connectionString: connection, max: 1 })
// A connection that breaks, idle or between two queries, must find a listener, or the process ends.
pool.on('error', (error) => console.error(error.message))
pool.on('connect', (client) => client.on('error', () => undefined))
const cluster = new PostgresCluster({ connection, name: 'leader-example' })
const membership = cluster.createMembership({ data: `process ${process.pid}` })
await membership.register()
console.log(`process ${process.pid} is registered`)

/** What only the leader may do. If the term is over, nothing of it happens. */
async function work(term: Term): Promise<void> {
  const client = await pool.connect()
  let isCommitted = false
  try {
    await client.query('begin')
    await term.fence(client)
    await client.query('create table if not exists leader_example (n serial, leader text, at timestamptz)')
    const insert = 'insert into leader_example (leader, at) values ($1, clock_timestamp()) returning n'
    const { rows } = await client.query<{ n: number }>(insert, [membership.data])
    await client.query('commit')
    isCommitted = true
    console.log(`${membership.data} leads: wrote row ${rows[0]?.n ?? '?'}`)
  } finally {
    client.release(!isCommitted) // true: closes the connection, and with it what is left of the transaction
  }
}

const leader = new Leader(cluster, membership)
for await (const term of leader.terms({ signal: stopping.signal })) {
  while (!term.signal.aborted && !stopping.signal.aborted) {
    // MB001: the registration was lost, another leads now, and this process registers again by itself.
    // After any other error, of the connection or of the database, the loop tries again.
    await work(term).catch((error: unknown) => console.error(`nothing was done: ${String(error)}`))
    await new Promise((resolve) => setTimeout(resolve, 500))
  }
}
await cluster.close() // the next member leads from now on
await pool.end()
