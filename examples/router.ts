/**
 * Sharding: every key belongs to one of the processes, and each process knows which one.
 *
 *   DATABASE_URL=postgres://… PORT=8001 npx tsx examples/router.ts
 *   DATABASE_URL=postgres://… PORT=8002 npx tsx examples/router.ts
 *   curl localhost:8001/some-key    # the same owner, whichever process you ask
 *
 * Stop one: its keys move to the others, and no other key moves (rendezvous hashing).
 */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type Member, migrate, PostgresCluster } from 'pg-membership'

const connection = process.env.DATABASE_URL ?? 'postgres://localhost/postgres'
await migrate({ connection })

const cluster = new PostgresCluster({ connection, name: 'router-example' })
const server = createServer((request, response) => {
  const key = (request.url ?? '/').slice(1)
  const mayForward = request.headers['x-forwarded-by'] === undefined
  answer(key, mayForward).then(
    (text) => response.end(text),
    (error: unknown) => response.writeHead(502).end(String(error)),
  )
})
server.listen(Number(process.env.PORT ?? 0), '127.0.0.1')
await once(server, 'listening')

// Register when ready to serve, never before. The data is all that others need to know.
const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
const membership = cluster.createMembership({ data: address })
await membership.register()
console.log(`${address} is registered`)

async function answer(key: string, mayForward: boolean): Promise<string> {
  const owner = ownerOf(key, await cluster.getMembers())
  // For a moment two processes may see different owners. A request is forwarded once, not in circles.
  if (owner === undefined || owner.id === membership.id || !mayForward)
    return `${key} is served by ${address}\n`
  const headers = { 'x-forwarded-by': address }
  const signal = AbortSignal.timeout(5_000)
  return (await fetch(`${owner.data}/${key}`, { headers, signal })).text()
}

/** The member with the highest hash for this key. */
function ownerOf(key: string, members: readonly Member[]): Member | undefined {
  const score = ({ id }: Member): string => createHash('sha256').update(`${id} ${key}`).digest('hex')
  return members.toSorted((a, b) => score(b).localeCompare(score(a)))[0]
}

// shutdown.ts shows how to do this without losing a request.
for (const name of ['SIGINT', 'SIGTERM']) {
  process.once(name, () => void cluster.close().then(() => server.close()))
}
