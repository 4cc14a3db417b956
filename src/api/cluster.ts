import type { Membership, MembershipOptions } from './membership.js'
import type { Reader } from './reader.js'
import type { Status } from './status.js'

/** A cluster, as one process takes part in it: a reader, and the memberships of this process. */
export interface Cluster extends Reader {
  /** How the cache is kept, at the moment of asking. */
  readonly status: Status
  /**
   * Makes a membership, which is not registered yet and invisible to others. Does no I/O.
   *
   * @throws ClosedError after close, OptionError, TypeError or RangeError for bad options.
   */
  createMembership(options?: MembershipOptions): Membership
}
