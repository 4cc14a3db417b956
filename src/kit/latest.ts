/** The newest of a series of values, for any number of watchers, none of which can make anyone wait. */
import type { WaitOptions } from '../api/wait-options.js'
import { iteratorOf, Steps } from './steps.js'
import { onAbort } from './waiting.js'

export class Latest<T> {
  readonly #same: (a: T, b: T) => boolean
  readonly #watchers = new Set<Watcher<T>>()
  #value: T | undefined
  #ended = false

  /** `same`: whether a watcher that has seen the one need not see the other. */
  constructor(same: (a: T, b: T) => boolean) {
    this.#same = same
  }

  publish(value: T): void {
    this.#value = value
    for (const watcher of [...this.#watchers]) watcher.offer(value)
  }

  /** Ends every watcher, after it has taken nothing more. */
  end(): void {
    this.#ended = true
    for (const watcher of [...this.#watchers]) watcher.end()
  }

  /** Rejects the watchers that still wait for a first value. */
  fail(error: Error): void {
    for (const watcher of [...this.#watchers]) watcher.fail(error)
  }

  /**
   * Yields the present value at once, then the newest after each change; what a slow consumer misses
   * it never sees. `onSubscribe` runs at the first `next()`. Ends normally when the signal aborts.
   */
  watch(options: WaitOptions, onSubscribe: () => void): AsyncIterableIterator<T> {
    const watcher = new Watcher(this.#same, options.signal, () => this.#watchers.delete(watcher))
    return iteratorOf({
      next: () => {
        if (this.#ended) watcher.end()
        if (watcher.subscribe()) {
          this.#watchers.add(watcher)
          if (this.#value !== undefined) watcher.offer(this.#value)
          onSubscribe()
        }
        return watcher.next()
      },
      end: () => watcher.end(),
    })
  }
}

class Watcher<T> {
  readonly #same: (a: T, b: T) => boolean
  readonly #signal: AbortSignal | undefined
  readonly #onEnd: () => void
  readonly #steps = new Steps<T>()
  #stopListening: () => void = () => undefined
  #seen: { readonly value: T } | undefined
  #unseen: { readonly value: T } | undefined
  #subscribed = false
  #ended = false

  constructor(same: (a: T, b: T) => boolean, signal: AbortSignal | undefined, onEnd: () => void) {
    this.#same = same
    this.#signal = signal
    this.#onEnd = onEnd
  }

  /** True the first time, unless it has ended, or ends by that. */
  subscribe(): boolean {
    if (this.#subscribed) return false
    this.#subscribed = true
    this.#stopListening = onAbort(this.#signal, () => this.end())
    return !this.#ended
  }

  next(): Promise<IteratorResult<T, undefined>> {
    const step = this.#steps.next()
    this.#deliver()
    return step
  }

  offer(value: T): void {
    this.#unseen = { value }
    this.#deliver()
  }

  fail(error: Error): void {
    if (this.#seen === undefined && this.#steps.fail(error)) this.end()
  }

  end(): void {
    if (this.#ended) return
    this.#ended = true
    this.#unseen = this.#seen = undefined
    this.#stopListening()
    this.#onEnd()
    this.#steps.end()
  }

  #deliver(): void {
    if (this.#unseen === undefined || this.#steps.waiting === 0) return
    const { value } = this.#unseen
    this.#unseen = undefined
    if (this.#seen !== undefined && this.#same(this.#seen.value, value)) return
    this.#seen = { value }
    this.#steps.give(value)
  }
}
