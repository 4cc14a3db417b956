/**
 * Sharding: every key belongs to one of the processes, and each process knows which one.
 *
 *   DATABASE_URL=postgres://… PORT=8001 npx tsx examples/routing-http/main.ts
 *   DATABASE_URL=postgres://… PORT=8002 npx tsx examples/routing-http/main.ts
 *   curl localhost:8001/some-key    # the same owner, whichever process you ask
 *
 * Stop one: its keys move to the others, and no other key moves.
 */
import { migrate, PostgresCluster } from 'pg-membership'
import { RoutingServer } from './server.js'

const connection = process.env.DATABASE_URL ?? 'postgres://localhost/postgres'
await migrate({ connection })

const cluster = new PostgresCluster({ connection, name: 'routing-http-example' })
const server = await RoutingServer.start(cluster, Number(process.env.PORT ?? 0))
console.log(`${server.url} is registered`)

for (const name of ['SIGINT', 'SIGTERM']) {
  process.once(name, () => void server.stop().then(() => cluster.close()))
}
