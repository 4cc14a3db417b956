/** Anyone in a cluster. Frozen; survives JSON. Identity is kept from snapshot to snapshot while nothing about it changes. */
export interface Member {
  /** Canonical string of a UUID; the same through every register/deregister cycle of one membership. */
  readonly id: string
  /** Any string that its owner set, at most 1 MiB of UTF-8; '' by default. */
  readonly data: string
  /** The number of this registration: always higher than every earlier one of the cluster. A fencing token. */
  readonly token: number
  /** Server time of the registration, ISO 8601 UTC. */
  readonly registeredAt: string
}
