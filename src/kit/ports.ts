/**
 * What layers ask of the store behind a cluster. Users cannot reach it on the cluster that they hold.
 *
 * A question is rejected with a MembershipError if waiting does not help. After any other error, ask again: each of
 * these may be asked twice, also after an answer that was lost.
 */
import type { Cluster } from '../api/cluster.js'
import type { QueryClient } from '../api/query-client.js'
import type { Registration } from '../api/registration.js'

/** At most this many keys or values go into one question. */
export const MOST_IN_ONE = 10_000

export interface ClaimsPort {
  /** Those of the keys that are this registration's now; undefined: it is not current. */
  claim(
    space: string,
    registration: Registration,
    keys: readonly string[],
  ): Promise<readonly string[] | undefined>
  /** Returns those that are still its own, because somebody has locked them: ask again. */
  release(space: string, registration: Registration, keys: readonly string[]): Promise<readonly string[]>
  owner(space: string, key: string): Promise<Registration | undefined>
  fence(
    client: QueryClient,
    space: string,
    registration: Registration,
    keys: readonly string[],
  ): Promise<void>
}

/** A value of a pool, and what it was taken with. */
export interface Taken {
  readonly value: string
  readonly batch: string
}

export interface NoncesPort {
  /** How many were new. Those that an attempt with a lost answer has added are not new to the next one. */
  stock(pool: string, values: readonly string[]): Promise<number>
  /** Takes those of the lost batches first. undefined: the registration is not current. */
  take(
    pool: string,
    registration: Registration,
    batch: string,
    lost: readonly string[],
    most: number,
  ): Promise<readonly string[] | undefined>
  /** Returns the values that are still taken, because somebody has locked them: ask again. */
  giveBack(
    pool: string,
    registration: Registration,
    taken: readonly Taken[],
    lost: readonly string[],
  ): Promise<readonly string[]>
  use(client: QueryClient, pool: string, registration: Registration, taken: Taken): Promise<void>
}

export interface Ports {
  /** Like `Membership.fence`, of exactly this registration. */
  fence(client: QueryClient, registration: Registration): Promise<void>
  readonly claims: ClaimsPort
  readonly nonces: NoncesPort
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
