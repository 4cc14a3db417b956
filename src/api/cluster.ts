import type { Membership, MembershipOptions } from './membership.js'
import type { Reader } from './reader.js'
import type { Status } from './status.js'

/** A reader that can also take part. */
export interface Cluster extends Reader {
  readonly status: Status
  /**
   * Synchronous, unregistered, invisible to others.
   *
   * @throws ClosedError after close, OptionError, TypeError or RangeError for bad options.
   */
  createMembership(options?: MembershipOptions): Membership
}
