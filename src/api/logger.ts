/**
 * Any object with these methods: pino and console fit. `details` always has `cluster`. It has the error as `err`,
 * the key under which pino prints errors, and where work in the background failed, `doing` says which.
 */
export interface Logger {
  /** A trouble goes on, or is over. */
  debug(details: object, message: string): void
  /** A lease began or was given up; the mode of the cluster changed. */
  info(details: object, message: string): void
  /**
   * A lease was lost, the database cannot be reached, or something failed and is tried again. A trouble that lasts
   * is logged here when it begins, then at most once a minute.
   */
  warn(details: object, message: string): void
  /** The database lost commits, or its log does not fit the snapshot: all members were read again. */
  error(details: object, message: string): void
}
