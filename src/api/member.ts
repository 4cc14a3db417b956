/** Anyone in a cluster. Frozen; survives JSON. Identity is kept from snapshot to snapshot while nothing about it changes. */
export interface Member {
  /** Canonical string of a UUID; the same through every register/deregister cycle of one membership. */
  readonly id: string
  /** Any string its owner set, '' by default. */
  readonly data: string
  /** Revision at which it registered: later registrations have higher tokens. A fencing token. */
  readonly token: number
  /** Server time of the registration, ISO 8601 UTC. */
  readonly registeredAt: string
}
