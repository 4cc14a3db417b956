/**
 * Sixteen partitions, each worked on by one process at a time, handed over when processes come and go.
 *
 *   DATABASE_URL=postgres://… npx tsx examples/partitions.ts
 *
 * Start it several times and stop one with Ctrl-C, kill -9 or kill -STOP: the others take its partitions over. Which
 * member should have a partition is computed from the members. That a partition never has two is up to the claims.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { migrate, PostgresCluster } from 'pg-membership'
import { Claims } from 'pg-membership/claims'
import { Router } from 'pg-membership/routing'

const connection = process.env.DATABASE_URL ?? 'postgres://localhost/postgres'
await migrate({ connection })

const stopping = new AbortController()
for (const name of ['SIGINT', 'SIGTERM']) process.once(name, () => stopping.abort())

const PARTITIONS = Array.from({ length: 16 }, (_, n) => `partition ${n}`)
const cluster = new PostgresCluster({ connection, name: 'partitions-example', ttlMs: 5_000 })
const membership = cluster.createMembership({ data: `process ${process.pid}` })
await membership.register()
const claims = new Claims({ cluster, membership })

const router = new Router(cluster) // if a member leaves, only its partitions move

let told = ''
while (!stopping.signal.aborted) {
  const mine = PARTITIONS.filter((partition) => router.owner(partition)?.id === membership.id)
  const leaving = [...claims.held].filter((partition) => !mine.includes(partition))
  const missing = mine.filter((partition) => !claims.held.has(partition))
  try {
    // What is done for a partition has to be over before it is released.
    if (leaving.length > 0) await claims.release(leaving)
    // What its old owner has not released yet is left out, and claimed in a later round.
    if (missing.length > 0 && membership.lease !== undefined) await claims.claim(missing)
  } catch (error) {
    console.error(String(error)) // The lease was lost: the next one begins with nothing.
  }
  const present = `has ${claims.held.size} of ${PARTITIONS.length} partitions`
  if (present !== told) console.log(`process ${process.pid} ${(told = present)}`)
  await sleep(200, undefined, { signal: stopping.signal }).catch(() => undefined)
}
await cluster.close() // releases everything
