import type { Membership, MembershipOptions } from './membership.js'
import type { Reader } from './reader.js'
import type { Status } from './status.js'

/** A cluster, as one process takes part in it: a reader, and the memberships of this process. */
export interface Cluster extends Reader {
  /** How this cluster is connected, and how old its cache is; computed at each read. */
  readonly status: Status
  /**
   * Makes a membership. It is not registered yet, and others do not see it. Does no I/O.
   *
   * @throws ClosedError after `close`; OptionError, TypeError or RangeError for bad options.
   */
  createMembership(options?: MembershipOptions): Membership
}
