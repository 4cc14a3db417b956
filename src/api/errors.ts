/** The errors of the library. Each stands for one thing that a caller can do about it, and has a stable `code`. */

export type LossReason = 'unreachable' | 'expired' | 'crashed' | 'removed' | 'superseded'

/**
 * The base class of all errors of this library. Two bad arguments give a TypeError or RangeError instead: `data`,
 * and the client of `fence`.
 */
export class MembershipError extends Error {
  /** For programs to compare: it does not change between versions. */
  declare readonly code:
    'CLOSED' | 'LOST' | 'DEREGISTERED' | 'ABORTED' | 'SCHEMA' | 'OPTION' | 'CONNECTION' | 'COMPACTED'
}

/** The cluster is closed: make a new one. */
export class ClosedError extends MembershipError {
  override readonly code = 'CLOSED'
}

/** The registration can no longer be trusted: stop acting in its name. */
export class MembershipLostError extends MembershipError {
  override readonly code = 'LOST'
  /**
   * 'unreachable': no heartbeat got through in time. Otherwise what the event log says: 'expired' (silent for
   * longer than the ttl), 'crashed' (its connections were gone for longer than the grace), 'removed' (somebody
   * evicted or drained it, deleted the row, or deregistered it for this process) or 'superseded' (the same id
   * registered again).
   */
  readonly reason: LossReason

  constructor(message?: string, options?: ErrorOptions & { readonly reason?: LossReason }) {
    super(message, options)
    this.reason = options?.reason ?? 'unreachable'
  }
}

/** The registration was given up by `deregister()`. */
export class DeregisteredError extends MembershipError {
  override readonly code = 'DEREGISTERED'
}

/** The caller's signal aborted the wait; `cause` is the signal's reason. */
export class AbortedError extends MembershipError {
  override readonly code = 'ABORTED'
  /** The newest error in the background that was not over when the wait ended; undefined when there was none. */
  readonly lastError: Error | undefined

  constructor(message?: string, options?: ErrorOptions & { readonly lastError?: Error | undefined }) {
    super(message, options)
    this.lastError = options?.lastError
  }
}

/** The schema is missing, too old, too new, or not granted to this role: the message says what to do. */
export class SchemaError extends MembershipError {
  override readonly code = 'SCHEMA'
}

/** What follows a cursor is not there any more, or never was: take a fresh snapshot, and go on from its cursor. */
export class CompactedError extends MembershipError {
  override readonly code = 'COMPACTED'
}

/** An option was refused: the message names the option, the value and the range. */
export class OptionError extends MembershipError {
  override readonly code = 'OPTION'
}

/** A failure to connect that will not pass by itself: authentication, unknown database, impossible host name. */
export class ConnectionError extends MembershipError {
  override readonly code = 'CONNECTION'
}

for (const [type, name] of [
  [MembershipError, 'MembershipError'],
  [ClosedError, 'ClosedError'],
  [MembershipLostError, 'MembershipLostError'],
  [DeregisteredError, 'DeregisteredError'],
  // Node's own APIs use this name, and programs look for it.
  [AbortedError, 'AbortError'],
  [SchemaError, 'SchemaError'],
  [CompactedError, 'CompactedError'],
  [OptionError, 'OptionError'],
  [ConnectionError, 'ConnectionError'],
] as const) {
  Object.defineProperty(type.prototype, 'name', { value: name, configurable: true, writable: true })
}
