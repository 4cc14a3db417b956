/**
 * A health endpoint: may this process be trusted with work, and how fresh is what it knows?
 *
 *   DATABASE_URL=postgres://… npx tsx examples/health.ts
 *   curl -i localhost:8080/health
 */
import { createServer } from 'node:http'
import { migrate, PostgresCluster } from 'pg-membership'

const connection = process.env.DATABASE_URL ?? 'postgres://localhost/postgres'
await migrate({ connection })

const cluster = new PostgresCluster({ connection, name: 'health-example' })
const membership = cluster.createMembership({ data: `process ${process.pid}` })
await membership.register()

const server = createServer((_request, response) => {
  const { lastError, ...status } = cluster.status
  // The lease is compared with the clock at this moment. Without a lease, others may have taken over: send no work
  // here. Answer liveness probes without the lease, or an outage of the database restarts every process that you have.
  const isReady = membership.lease !== undefined
  response.writeHead(isReady ? 200 : 503, { 'content-type': 'application/json' })
  response.end(
    JSON.stringify({
      isReady,
      ...status,
      lastError: lastError?.message,
      members: cluster.snapshot?.members.length,
      token: membership.lease?.token,
    }),
  )
})
server.listen(Number(process.env.PORT ?? 8080), '127.0.0.1', () => {
  console.log(`listening on ${JSON.stringify(server.address())}`)
})

for (const name of ['SIGINT', 'SIGTERM']) {
  process.once(name, () => void cluster.close().then(() => server.close()))
}
