import { randomUUID } from 'node:crypto'
import type { Cluster } from 'pg-membership'
import { MemoryCluster, MemoryWorld } from 'pg-membership/memory'
import { type Harness, isRefusal } from './harness.js'
import { conformance } from './suite.js'

/** There are no transactions in memory, and nothing that could be asked. */
const noDatabase = { query: () => Promise.resolve({ rows: [] }) }

conformance('MemoryCluster', () => {
  const world = new MemoryWorld()
  const harness: Harness = {
    removals: ['expired', 'crashed', 'removed'],
    uniqueName: () => `memory-${randomUUID()}`,
    open: (name) => new MemoryCluster({ name, world }),
    release: () => Promise.resolve(),
    async remove(id, reason) {
      world.remove(id, reason)
    },
    async disconnect(cluster) {
      world.disconnect(inMemory(cluster))
    },
    async reconnect(cluster) {
      world.reconnect(inMemory(cluster))
    },
    async inTransaction(fence) {
      try {
        await fence(noDatabase)
        return 'committed'
      } catch (error) {
        if (isRefusal(error)) return 'refused'
        throw error
      }
    },
    close: () => Promise.resolve(),
  }
  return Promise.resolve(harness)
})

function inMemory(cluster: Cluster): MemoryCluster {
  if (cluster instanceof MemoryCluster) return cluster
  throw new TypeError('a MemoryCluster is needed')
}
