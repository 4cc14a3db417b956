/** Waiting that a signal, or a bound, can end. */
import { setMaxListeners } from 'node:events'
import { AbortedError } from './errors.js'
import { refuse } from './options.js'

/** What every call that waits takes. */
export interface WaitOptions {
  /**
   * Ends the wait: the call rejects with an AbortedError, and a watcher ends normally. Default: none, and the
   * call waits until the database answers or the cluster is closed.
   */
  readonly signal?: AbortSignal
}

/** As given by any caller, typed or not. */
export function checkWaitOptions(options: unknown): void {
  if (typeof options !== 'object' || options === null) refuse('signal', options, 'be given as { signal }')
  const { signal } = options as { signal?: unknown }
  if (signal !== undefined && !isSignal(signal)) refuse('signal', signal, 'be an AbortSignal')
}

/** Also one that is not Node's own: a polyfill's, or that of another realm. */
function isSignal(signal: unknown): boolean {
  if (typeof signal !== 'object' || signal === null) return false
  const { aborted, addEventListener, removeEventListener } = signal as Record<string, unknown>
  return (
    typeof aborted === 'boolean' &&
    typeof addEventListener === 'function' &&
    typeof removeEventListener === 'function'
  )
}

/** Hundreds of waits may share one signal: that is no leak, and no reason for Node's warning. */
export function allowManyListeners(signal: AbortSignal): void {
  try {
    setMaxListeners(0, signal)
  } catch {
    // Not Node's own, so Node does not warn about it.
  }
}

/** Calls back once when the signal aborts, at once if it has. Returns how to stop listening. */
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
 * Bounds a wait, by time and perhaps by a signal; what comes too late is dropped. After a stall of this
 * process a timer runs before the answer is read that has long been there: it gets a turn to be heard. A
 * deadline may have passed already, and Node would print a warning about a negative time.
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
    // Made when it is needed: with its stack, an error costs more than all else here.
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

/** Promises of one kind that are settled together. */
export class Waiting<T> {
  readonly #entries = new Set<{
    readonly rank: number
    readonly resolve: (value: T) => void
    readonly reject: (error: Error) => void
  }>()

  get size(): number {
    return this.#entries.size
  }

  /** On abort only this wait ends, with an AbortedError that carries `lastError()`. */
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

  /** Resolves all whose rank is not above this one. */
  resolve(value: T, upTo = Infinity): void {
    for (const entry of [...this.#entries]) if (entry.rank <= upTo) entry.resolve(value)
  }

  reject(error: Error): void {
    for (const entry of [...this.#entries]) entry.reject(error)
  }
}
