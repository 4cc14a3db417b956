/**
 * Structural; pino and console fit. All details have `cluster`; those of an error have it as `err`, the key
 * under which pino prints errors, and what was being done as `doing`.
 */
export interface Logger {
  /** What repeats while a trouble lasts, and that it is over. */
  debug(details: object, message: string): void
  /** A lease began or was given up; the mode of the cluster changed. */
  info(details: object, message: string): void
  /**
   * A lease was lost, the database cannot be reached, or something failed that is tried again: once when it
   * begins, then once a minute at most.
   */
  warn(details: object, message: string): void
  /** The database lost commits, or its log does not fit the snapshot: everything was read anew. */
  error(details: object, message: string): void
}
