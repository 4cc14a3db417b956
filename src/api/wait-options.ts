/** Options of every call that waits. */
export interface WaitOptions {
  /**
   * Ends the wait: the call rejects with an AbortedError, and a watcher ends normally. Default: none, and the
   * call waits until the database answers or the cluster is closed.
   */
  readonly signal?: AbortSignal
}
