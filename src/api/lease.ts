/** One period during which this process may trust that it is registered. */
export interface Lease {
  /** The token of the registration. The next lease has the same token unless others saw this member leave. */
  readonly token: number
  /**
   * Aborts when the trust ends: 95 % of the ttl after the last good heartbeat began, or when others removed the
   * registration. Its `reason` is then a MembershipLostError; it is a DeregisteredError or a ClosedError when
   * this process gave the registration up.
   */
  readonly signal: AbortSignal
}
