/**
 * Stopping without losing a request: deregister, drain, stop the server, close.
 *
 *   DATABASE_URL=postgres://… npx tsx examples/shutdown.ts
 *   curl localhost:8080 & sleep 1; kill -TERM <pid>    # the answer still comes
 *
 * The library installs no signal handlers: only the application knows what must come first.
 */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { migrate, PostgresCluster } from 'pg-membership'

/** Others hear of it within milliseconds. What they sent before that is still on its way. */
const GRACE_MS = 500

const connection = process.env.DATABASE_URL ?? 'postgres://localhost/postgres'
await migrate({ connection })

const server = createServer((_request, response) => {
  // A slow answer, to have something to drain.
  response.write('working … ')
  setTimeout(() => response.end('done\n'), 2_000)
})
server.listen(Number(process.env.PORT ?? 8080), '127.0.0.1')
await once(server, 'listening')

const cluster = new PostgresCluster({ connection, name: 'shutdown-example' })
const { port } = server.address() as AddressInfo
const membership = cluster.createMembership({ data: `http://127.0.0.1:${port}` })
await membership.register()
console.log(`process ${process.pid} is registered, and listens on ${membership.data}`)

async function shutdown(): Promise<void> {
  // 1. Nobody finds this process any more. A database that is away must not keep it from stopping.
  await membership.deregister({ signal: AbortSignal.timeout(2_000) }).catch(console.error)
  console.log('deregistered')
  // 2. Drain: go on serving clients that had found this process just before.
  await sleep(GRACE_MS)
  // 3. Stop the server: no new connections, and wait for the answers under way.
  server.close()
  server.closeIdleConnections()
  await once(server, 'close')
  console.log('drained')
  // 4. Close the connections to the database; bounded by closeTimeoutMs, never rejects.
  await cluster.close()
  console.log('closed')
}

process.once('SIGTERM', () => void shutdown())
process.once('SIGINT', () => void shutdown())
