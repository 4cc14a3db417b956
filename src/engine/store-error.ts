/**
 * The three ways in which a call of a store fails, by what the engine does about it:
 *
 * - 'no effect': the database answered, and nothing has happened. Try again.
 * - 'nobody knows': the answer was lost. Try again; a second attempt finds what the first one did.
 * - 'never': waiting does not help. A ConnectionError, SchemaError or OptionError says why; the caller gets it.
 */
import { ConnectionError, OptionError, SchemaError } from '../api/errors.js'

export type LastingError = ConnectionError | SchemaError | OptionError

/** What a store throws if waiting may help. Any other error that is no LastingError counts as 'nobody knows'. */
export class StoreError extends Error {
  readonly outcome: 'no effect' | 'nobody knows'
  /** What went wrong, for people. */
  override readonly cause: Error

  constructor(outcome: StoreError['outcome'], cause: Error) {
    super(cause.message, { cause })
    this.outcome = outcome
    this.cause = cause
  }
}

export interface Failure {
  readonly outcome: StoreError['outcome'] | 'never'
  /** The error for calls that wait, for the logger and for the diagnostics. */
  readonly error: Error
  /** Whether the database was reached. */
  readonly answered: boolean
}

export function failureOf(error: unknown): Failure {
  if (error instanceof StoreError) {
    return { outcome: error.outcome, error: error.cause, answered: error.outcome === 'no effect' }
  }
  if (isLasting(error)) return { outcome: 'never', error, answered: error instanceof SchemaError }
  const unexpected = error instanceof Error ? error : new Error(String(error))
  return { outcome: 'nobody knows', error: unexpected, answered: false }
}

/** Waiting does not cure it. */
export function isLasting(error: unknown): error is LastingError {
  return error instanceof ConnectionError || error instanceof SchemaError || error instanceof OptionError
}
