/** How a cluster is connected, and how old its cache is. */
export interface Status {
  /** 'connecting' until the first load; 'listening'; 'polling' when LISTEN is off or does not work here; 'disconnected'; 'closed'. */
  readonly mode: 'connecting' | 'listening' | 'polling' | 'disconnected' | 'closed'
  /** When the mode began: ISO 8601 UTC, by this process's clock. */
  readonly since: string
  /** The revision of the snapshot; undefined until the first one is loaded. */
  readonly revision: number | undefined
  /** Milliseconds since a query last confirmed the cache, by this process's clock; undefined before the first time. */
  readonly ageMs: number | undefined
  /** The newest error in the background that is not over; undefined when all works. */
  readonly lastError: Error | undefined
}
