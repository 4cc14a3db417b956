/** Keeps the newest of a series of values for any number of watchers. A slow watcher delays nobody. */
import type { WaitOptions } from '../api/wait-options.js'
import { iteratorOf, Steps } from './steps.js'
import { onAbort } from './waiting.js'

export class Latest<T> {
  readonly #same: (a: T, b: T) => boolean
  readonly #watchers = new Set<Watcher<T>>()
  #value: T | undefined
  #ended = false

  /** `same(a, b)`: true if a watcher that has seen `a` need not see `b`. */
  constructor(same: (a: T, b: T) => boolean) {
    this.#same = same
  }

  publish(value: T): void {
    this.#value = value
    for (const watcher of [...this.#watchers]) watcher.offer(value)
  }

  /** There is no value any more. Who has not taken it yet does not get it. */
  clear(): void {
    this.#value = undefined
    for (const watcher of this.#watchers) watcher.clear()
  }

  /** Ends every watcher. It drops a value that was not taken yet. */
  end(): void {
    this.#ended = true
    for (const watcher of [...this.#watchers]) watcher.end()
  }

  /** Rejects the watchers that still wait for a first value. */
  fail(error: Error): void {
    for (const watcher of [...this.#watchers]) watcher.fail(error)
  }

  /**
   * Yields the present value at once, then the newest after each change. A slow consumer skips the values in
   * between. `onSubscribe` runs at the first `next()`. Ends normally when the signal aborts.
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

  /** Returns true at the first call, unless the watcher has ended or its signal is already aborted. */
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

  clear(): void {
    this.#unseen = undefined
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
