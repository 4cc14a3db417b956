/** What layers ask of the store behind a cluster. Users cannot reach it on the cluster that they hold. */
import type { Cluster } from '../api/cluster.js'
import type { QueryClient } from '../api/query-client.js'
import type { Registration } from '../api/registration.js'

export interface Ports {
  /** Like `Membership.fence`, of exactly this registration. */
  fence(client: QueryClient, registration: Registration): Promise<void>
}

const portsOfClusters = new WeakMap<object, Ports>()

export function providePorts(cluster: Cluster, ports: Ports): void {
  portsOfClusters.set(cluster, ports)
}

/** @throws TypeError for what is not a cluster of this package, such as a typed view of one. */
export function portsOf(cluster: Cluster): Ports {
  const ports = portsOfClusters.get(cluster)
  if (ports === undefined) throw new TypeError('A PostgresCluster or MemoryCluster is needed')
  return ports
}
