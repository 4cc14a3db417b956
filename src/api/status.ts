/** How the cache of a cluster is kept. */
export interface Status {
  /** 'connecting' until the first load; 'listening'; 'polling' when LISTEN is off or does not work here; 'disconnected'; 'closed'. */
  readonly mode: 'connecting' | 'listening' | 'polling' | 'disconnected' | 'closed'
  /** Since when the mode is what it is: ISO 8601 UTC, by this process's clock. */
  readonly since: string
  /** Of the snapshot; undefined until the first one is loaded. */
  readonly revision: number | undefined
  /** Milliseconds since the cache was last confirmed against the database, by this process's clock; undefined before the first time. */
  readonly ageMs: number | undefined
  /** The newest trouble in the background that is not over; undefined when all works. */
  readonly lastError: Error | undefined
}
