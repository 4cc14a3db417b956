import { setTimeout as sleep } from 'node:timers/promises'

export interface UntilOptions {
  readonly withinMs?: number
  /** What was waited for, as it reads after 'not within 10000 ms: '; a function may tell how far it got. */
  readonly message: string | (() => string)
}

const POLL_MS = 10
const TIMED_OUT = Symbol()

/**
 * Waits until the condition returns something truthy, and returns that. A condition that throws is not
 * fulfilled yet; its last error becomes the cause when time runs out.
 */
export async function until<T>(
  condition: () => T | Promise<T>,
  { withinMs = 10_000, message }: UntilOptions,
): Promise<NonNullable<T>> {
  // The caller's line is what one looks for in a failing test.
  const failure = new Error()
  Error.captureStackTrace(failure, until)
  const bound = new AbortController()
  const timeout = sleep(withinMs, TIMED_OUT, { signal: bound.signal })
  timeout.catch(() => undefined)
  try {
    for (;;) {
      try {
        const result = await Promise.race([condition(), timeout])
        if (result === TIMED_OUT) break
        if (result) return result
        failure.cause = undefined
      } catch (error) {
        failure.cause = error
      }
      if ((await Promise.race([sleep(POLL_MS), timeout])) === TIMED_OUT) break
    }
  } finally {
    bound.abort()
  }
  const description = typeof message === 'string' ? message : message()
  failure.message = `not within ${String(withinMs)} ms: ${description}`
  failure.stack = `${failure.name}: ${failure.message}\n${failure.stack?.replace(/^.*\n/, '') ?? ''}`
  throw failure
}
