/**
 * A server of gRPC that also calls all others, once a second: keys go to their owners.
 *
 *   DATABASE_URL=postgres://… npx tsx examples/routing-grpc/main.ts    # several times; needs @grpc/grpc-js and zod
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { Metadata } from '@grpc/grpc-js'
import { migrate, PostgresCluster } from 'pg-membership'
import { places } from '../routing-http/places.js'
import { KEY, registerMembership } from './balancer.js'
import { KeysClient, KeysServer } from './server.js'

const connection = process.env.DATABASE_URL ?? 'postgres://localhost/postgres'
await migrate({ connection })

const cluster = places(new PostgresCluster({ connection, name: 'routing-grpc-example' }))
registerMembership(() => cluster)
const server = await KeysServer.start(cluster, async (key) => `${key} is served by ${server.url}`)
console.log(`${server.url} is registered`)

const stopping = new AbortController()
for (const name of ['SIGINT', 'SIGTERM']) process.once(name, () => stopping.abort())
const client = new KeysClient(`membership:///${cluster.name}`)
for (let n = 0; !stopping.signal.aborted; n = (n + 1) % 10) {
  const metadata = new Metadata()
  metadata.set(KEY, `key ${n}`)
  console.log(await client.ask(`key ${n}`, metadata).catch(String))
  await sleep(1_000, undefined, { signal: stopping.signal }).catch(() => undefined)
}
client.close()
await server.stop()
await cluster.close()
