/** A member of a cluster. Frozen; survives JSON. It stays the same object in each snapshot until it changes. */
export interface Member {
  /** Canonical string of a UUID; the same through every register/deregister cycle of one membership. */
  readonly id: string
  /** Any string that its owner set, at most 1 MiB of UTF-8; '' by default. */
  readonly data: string
  /** The number of this registration: higher than that of every earlier one in the cluster. A fencing token. */
  readonly token: number
  /** The time of the registration by the server's clock, ISO 8601 UTC. */
  readonly registeredAt: string
}
