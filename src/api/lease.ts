/** One period during which this process may trust that it is registered. */
export interface Lease {
  readonly token: number
  /** Aborts with a MembershipLostError when the trust ends, or with a ClosedError/DeregisteredError reason when it is given up. */
  readonly signal: AbortSignal
}
