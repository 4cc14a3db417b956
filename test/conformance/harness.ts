import type { Cluster, QueryClient } from 'pg-membership'

/** Why a member that did not leave by itself is gone. */
export type Removal = 'expired' | 'crashed' | 'removed'

/** What came of a transaction that was fenced by a registration. */
export type Outcome = 'committed' | 'refused'

export interface OpenOptions {
  /** For tests in which somebody falls silent; ignored where silence has no bound. */
  readonly ttlMs?: number
}

/** What the suite needs of an implementation, beyond the `Cluster` interface itself. */
export interface Harness {
  /** The ways in which others can take a member away here. */
  readonly removals: readonly Removal[]
  /** A name that no other test uses. */
  uniqueName(): string
  /** Opened twice with the same name, it gives the views of two processes. */
  open(name: string, options?: OpenOptions): Cluster
  /** The cluster is closed, and its test is over. */
  release(cluster: Cluster): Promise<void>
  /** Takes a member away as others would; nothing happens to one that is gone already. */
  remove(id: string, reason: Removal): Promise<void>
  /** Cuts one cluster off: nothing gets through until `reconnect`. */
  disconnect(cluster: Cluster): Promise<void>
  reconnect(cluster: Cluster): Promise<void>
  /** Runs a transaction that begins with this; 'refused' when it raised MB001 or MB002. */
  inTransaction(fence: (client: QueryClient) => Promise<void>): Promise<Outcome>
  close(): Promise<void>
}

export function isRefusal(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'MB001' || error.code === 'MB002')
}
