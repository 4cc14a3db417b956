/** Waits that a signal or a time limit can end. */
import { setMaxListeners } from 'node:events'
import { AbortedError } from '../api/errors.js'
import type { WaitOptions } from '../api/wait-options.js'

/** Hundreds of waits may share one signal. That is no leak, so Node must not warn about it. */
export function allowManyListeners(signal: AbortSignal): void {
  try {
    setMaxListeners(0, signal)
  } catch {
    // The signal is not one of Node's own, so Node does not warn about it.
  }
}

/** Calls back once when the signal aborts, or at once if it already has. Returns a function that stops listening. */
export function onAbort(signal: AbortSignal | undefined, callback: () => void): () => void {
  if (signal === undefined) return () => undefined
  if (signal.aborted) {
    callback()
    return () => undefined
  }
  allowManyListeners(signal)
  signal.addEventListener('abort', callback, { once: true })
  return () => signal.removeEventListener('abort', callback)
}

export function abortedError(signal: AbortSignal, lastError?: Error): AbortedError {
  return new AbortedError('The wait was aborted', { cause: signal.reason, lastError })
}

/**
 * Limits a wait by time, and by a signal if there is one. A result that comes too late is dropped.
 *
 * After a stall of this process, Node runs timers before it reads answers that have arrived meanwhile. So a late
 * answer gets two more ticks. `ms` may be negative, if a deadline has passed; Node would warn about a negative timer.
 */
export async function within<T>(
  ms: number,
  promise: Promise<T>,
  what: string,
  signal?: AbortSignal,
): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  let release = (): void => undefined
  const late = new Promise<never>((_, reject) => {
    // The error is made only when it is needed: its stack costs more than all else here.
    const isLate = (): void => reject(new Error(`${what} took longer than ${String(Math.round(ms))} ms`))
    timer = setTimeout(() => setImmediate(() => setImmediate(isLate)), Math.max(0, ms))
    release = onAbort(signal, () => reject(new Error(`${what} was given up`)))
  })
  promise.catch(() => undefined)
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
    release()
  }
}

/** Waits of one kind that are settled together. */
export class Waiting<T> {
  readonly #entries = new Set<{
    readonly rank: number
    readonly resolve: (value: T) => void
    readonly reject: (error: Error) => void
  }>()

  get size(): number {
    return this.#entries.size
  }

  /** If the signal aborts, only this wait ends: with an AbortedError that carries `lastError()`. */
  wait(options: WaitOptions = {}, lastError?: () => Error | undefined, rank = 0): Promise<T> {
    const { signal } = options
    return new Promise<T>((resolve, reject) => {
      let release = (): void => undefined
      const finish = (settle: () => void): void => {
        this.#entries.delete(entry)
        release()
        settle()
      }
      const entry = {
        rank,
        resolve: (value: T) => finish(() => resolve(value)),
        reject: (error: Error) => finish(() => reject(error)),
      }
      this.#entries.add(entry)
      if (signal !== undefined) {
        release = onAbort(signal, () => entry.reject(abortedError(signal, lastError?.())))
      }
    })
  }

  /** Resolves all waits with a rank of at most `upTo`. */
  resolve(value: T, upTo = Infinity): void {
    for (const entry of [...this.#entries]) if (entry.rank <= upTo) entry.resolve(value)
  }

  reject(error: Error): void {
    for (const entry of [...this.#entries]) entry.reject(error)
  }
}
