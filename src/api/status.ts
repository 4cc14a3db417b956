/** How a cluster is connected, at one moment. Frozen. */
export interface Status {
  /** 'connecting' until the first load; 'listening'; 'polling' when LISTEN is off or does not work here; 'disconnected'; 'closed'. */
  readonly mode: 'connecting' | 'listening' | 'polling' | 'disconnected' | 'closed'
  /** Since when, ISO 8601 UTC by this process's clock. */
  readonly since: string
  readonly revision: number | undefined
  /** Milliseconds since the cache was last confirmed against the database; undefined before the first time. */
  readonly ageMs: number | undefined
  /** The newest trouble in the background that is not over; undefined when all works. */
  readonly lastError: Error | undefined
}
