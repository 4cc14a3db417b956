/**
 * Clusters in memory, for tests of code that uses this library: the same code runs on top, only the
 * database is replaced. Nothing expires by itself and no timer runs: a test removes members, or cuts a
 * cluster off, when it wants to.
 *
 * @module pg-membership/memory
 */
import type { Cluster } from '../api/cluster.js'
import { ClusterCore } from '../engine/cluster-core.js'
import { checkOptions, clusterName, refuse, type Timing } from '../engine/options.js'
import { MemoryClaims } from './claims.js'
import { Cord } from './cord.js'
import { MemoryNonces } from './nonces.js'
import { MemoryStore } from './store.js'
import { Table } from './table.js'

/** The place that clusters in memory are in. Those with the same world and name see one another. */
export class MemoryWorld {
  /** Takes a member away as others would: its owner learns that it was lost, and why. */
  remove(id: string, reason: 'expired' | 'crashed' | 'removed' = 'removed'): void {
    for (const table of tablesOf(this).values()) table.remove((member) => member.id === id, reason)
  }

  /** Cuts a cluster off: its leases end as 'unreachable', and it neither hears nor changes anything. */
  disconnect(cluster: MemoryCluster): void {
    cordOf(cluster).cut()
  }

  /** Ends a cut: the cluster finds out at once what became of its registrations meanwhile. */
  reconnect(cluster: MemoryCluster): void {
    cordOf(cluster).join()
  }
}

/**
 * A `Cluster` in one process.
 *
 * `fence` checks that the registration is current and throws an error with the code 'MB001' otherwise;
 * there is no transaction that it could protect.
 *
 * @throws OptionError for a bad option.
 */
export class MemoryCluster extends ClusterCore implements Cluster {
  constructor(options: { readonly name: string; readonly world?: MemoryWorld }) {
    checkOptions('MemoryCluster', options, ['name', 'world'])
    const name = clusterName(options.name)
    const { world = new MemoryWorld() } = options
    if (!(world instanceof MemoryWorld)) refuse('world', world, 'be a MemoryWorld')
    const cord = new Cord()
    const table = tableOf(world, name)
    const store = new MemoryStore(table, cord)
    super({
      name,
      store,
      claims: new MemoryClaims(table, cord),
      nonces: new MemoryNonces(table, cord),
      timing: NEVER,
      logger: undefined,
      onSurprise: () => undefined,
      detach: () => Promise.resolve(),
      start: (callbacks) => store.start(callbacks),
    })
    cords.set(this, cord)
  }
}

const NEVER: Timing = {
  ttlMs: Infinity,
  heartbeatMs: Infinity,
  pollMs: Infinity,
  crashGraceMs: false,
  closeTimeoutMs: 100,
}

const worlds = new WeakMap<MemoryWorld, Map<string, Table>>()
const cords = new WeakMap<MemoryCluster, Cord>()

function tablesOf(world: MemoryWorld): Map<string, Table> {
  const tables = worlds.get(world) ?? new Map<string, Table>()
  worlds.set(world, tables)
  return tables
}

function tableOf(world: MemoryWorld, name: string): Table {
  const tables = tablesOf(world)
  const table = tables.get(name) ?? new Table()
  tables.set(name, table)
  return table
}

function cordOf(cluster: MemoryCluster): Cord {
  const cord = cords.get(cluster)
  if (cord === undefined) throw new TypeError('Not a MemoryCluster')
  return cord
}
