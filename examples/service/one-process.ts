/** One process of the service: it serves its keys, says how it is, and does the leader's job while it leads. */
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { PostgresCluster } from 'pg-membership'
import { Leader, type Term } from 'pg-membership/leader'
import { type Answer, RoutingServer } from '../routing-http/server.js'

const EVERY_MS = 500

const connection = process.env.DATABASE_URL ?? 'postgres://localhost/postgres'
const pool = new pg.Pool({ connectionString: connection, max: 1 })
// A connection that breaks, idle or between two queries, must find a listener, or the process ends.
pool.on('error', (error) => console.error(error.message))
pool.on('connect', (client) => client.on('error', () => undefined))

const cluster = new PostgresCluster({ connection, name: 'service-example' })
const server = await RoutingServer.start(cluster, Number(process.env.PORT ?? 0), (key) =>
  key === 'health' ? health() : undefined,
)
console.log(`process ${process.pid}: ${server.url} is ready`)

/** For a load balancer: without a lease others may have taken over, so send no work here. */
function health(): Answer {
  const isReady = server.membership.lease !== undefined && server.membership.data.weight > 0
  const { mode, ageMs } = cluster.status
  const body = JSON.stringify({ isReady, mode, ageMs, members: cluster.snapshot?.members.length })
  return { status: isReady ? 200 : 503, body }
}

/** Each job is done once: the fence keeps two leaders from doing it side by side. */
async function job(term: Term): Promise<void> {
  const client = await pool.connect()
  let isCommitted = false
  try {
    await client.query('begin')
    await term.fence(client)
    const insert = 'insert into service_jobs select coalesce(max(n), 0) + 1, $1 from service_jobs returning n'
    const { rows } = await client.query<{ n: number }>(insert, [`process ${process.pid}`])
    await client.query('commit')
    isCommitted = true
    console.log(`process ${process.pid}: led, and did job ${rows[0]?.n ?? '?'}`)
  } finally {
    client.release(!isCommitted) // true: closes the connection, and with it what is left of the transaction
  }
}

const stopping = new AbortController()
const leader = new Leader(cluster, server.membership)
const leading = (async () => {
  for await (const term of leader.terms({ signal: stopping.signal })) {
    while (!term.signal.aborted && !stopping.signal.aborted) {
      await job(term).catch((error: unknown) => console.error(`no job was done: ${String(error)}`))
      await sleep(EVERY_MS)
    }
  }
})()

async function stop(): Promise<void> {
  if (stopping.signal.aborted) return
  stopping.abort()
  await leading
  await server.stop() // weight 0, then deregister; what is under way is answered
  await cluster.close()
  await pool.end()
  console.log(`process ${process.pid}: drained`)
  if (process.connected) process.disconnect() // or main.ts would keep this process alive
}
process.once('SIGTERM', () => void stop())
// Ctrl-C reaches all processes of a terminal; main.ts stops them one after another.
process.on('SIGINT', () => undefined)
// main.ts has died.
process.once('disconnect', () => void stop())
