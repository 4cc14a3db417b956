/**
 * Change feeds: every change once, in order, read from the log as fast as each consumer asks.
 *
 * A feed holds the position of the last change that it has read, and what it has read and not handed out yet: one
 * page at most. It reads when somebody waits for a step and that page is used up. Where nothing followed, it waits
 * until the snapshot moves on (by announcements, hints, polls: reader.ts), and reads again. What woke it proves
 * nothing: only what the log tells after the feed's position, in the same history, is handed out.
 */
import type { Change } from '../api/change.js'
import { CompactedError, type MembershipError } from '../api/errors.js'
import type { WaitOptions } from '../api/wait-options.js'
import { Loop } from '../kit/loop.js'
import { iteratorOf, Steps } from '../kit/steps.js'
import { onAbort } from '../kit/waiting.js'
import type { Report } from './report.js'
import { type LogReading, type Position, samePosition, type Store } from './store.js'
import { failureOf, isLasting } from './store-error.js'

export interface FeedsOptions {
  readonly store: Pick<Store, 'readLog'>
  readonly report: Report
  /** Somebody waits for changes: they are to be found out about. */
  readonly onWait: () => void
}

const MAX_BACKOFF_MS = 1_000

/** All feeds of a cluster. */
export class Feeds {
  readonly #options: FeedsOptions
  readonly #feeds = new Set<Feed>()
  #ended = false

  constructor(options: FeedsOptions) {
    this.#options = options
  }

  /** It begins at the first `next()`; where `since` is undefined, with what happens after that moment. */
  watch({ signal }: WaitOptions, since: Position | undefined): AsyncIterableIterator<Change> {
    const feed = new Feed(this.#options, since, () => this.#forget(feed))
    let begun = false
    return iteratorOf({
      next: () => {
        if (this.#ended) feed.end()
        if (!begun) {
          begun = true
          this.#feeds.add(feed)
          feed.endWith(signal)
        }
        return feed.next()
      },
      end: () => feed.end(),
    })
  }

  /** The snapshot is at another position now. `otherHistory`: in another history. */
  moved(position: Position, otherHistory: boolean): void {
    for (const feed of this.#feeds) feed.moved(position, otherHistory)
  }

  /** The database is reached again: no backoff applies. */
  retry(): void {
    for (const feed of this.#feeds) feed.retry()
  }

  /** Nobody would tell them that something has changed. */
  fail(error: MembershipError): void {
    for (const feed of [...this.#feeds]) feed.fail(error)
  }

  /** Resolves when nothing is being read any more. */
  async end(): Promise<void> {
    this.#ended = true
    const feeds = [...this.#feeds]
    for (const feed of feeds) feed.end()
    await Promise.all(feeds.map((feed) => feed.stopped()))
  }

  #forget(feed: Feed): void {
    this.#feeds.delete(feed)
    if (this.#feeds.size === 0) this.#options.report.givenUp('feed')
  }
}

class Feed {
  readonly #options: FeedsOptions
  readonly #onEnd: () => void
  readonly #steps = new Steps<Change>()
  readonly #loop: Loop
  /** After what has been read; undefined: not found yet. */
  #position: Position | undefined
  /** Read, and not handed out: from the index on. */
  #page: readonly Change[] = []
  #index = 0
  /** Something may follow the position. */
  #isBehind = true
  /** Where the snapshot has moved while the log was being read. */
  #heard: { readonly position: Position; readonly otherHistory: boolean } | undefined
  #answered = false
  #ended = false
  #stopped: Promise<void> | undefined
  #stopListening: () => void = () => undefined

  constructor(options: FeedsOptions, since: Position | undefined, onEnd: () => void) {
    this.#options = options
    this.#position = since
    this.#onEnd = onEnd
    this.#loop = new Loop({
      run: () => this.#read(),
      onError: (error) => this.#failed(error),
      maxBackoffMs: () => MAX_BACKOFF_MS,
    })
  }

  endWith(signal: AbortSignal | undefined): void {
    this.#stopListening = onAbort(signal, () => this.end())
    if (this.#ended) this.#stopListening()
  }

  next(): Promise<IteratorResult<Change, undefined>> {
    const step = this.#steps.next()
    this.#handOut()
    if (this.#steps.waiting > 0) {
      this.#options.onWait()
      if (this.#isBehind) this.#loop.wake()
    }
    return step
  }

  moved(position: Position, otherHistory: boolean): void {
    this.#heard = { position, otherHistory: otherHistory || this.#heard?.otherHistory === true }
    if (!this.#hasHeardMoreThan(this.#position)) return
    this.#isBehind = true
    if (this.#steps.waiting > 0) this.#loop.wake()
  }

  retry(): void {
    this.#loop.retry()
  }

  fail(error: MembershipError): void {
    if (this.#steps.fail(error)) this.end()
  }

  end(): void {
    if (this.#ended) return
    this.#ended = true
    this.#stopped = this.#loop.stop()
    this.#page = []
    this.#stopListening()
    this.#onEnd()
    this.#steps.end()
  }

  /** Resolves when it reads no more. */
  async stopped(): Promise<void> {
    await this.#stopped
  }

  async #read(): Promise<number> {
    if (this.#steps.waiting === 0 || !this.#isBehind) return Infinity
    this.#heard = undefined
    const reading = await this.#options.store.readLog(this.#position)
    if (this.#hasEnded()) return Infinity
    this.#options.report.succeeded('feed')
    this.#answered = true
    if (reading.follows !== 'all') this.fail(compacted(reading.follows))
    else this.#take(reading)
    return Infinity
  }

  #take({ changes, reached, head }: LogReading): void {
    this.#position = reached
    this.#isBehind = !samePosition(reached, head) || this.#hasHeardMoreThan(head)
    this.#page = changes
    this.#index = 0
    this.#handOut()
    if (this.#steps.waiting > 0 && this.#isBehind) this.#loop.wake()
  }

  #handOut(): void {
    while (this.#steps.waiting > 0) {
      const change = this.#page[this.#index]
      if (change === undefined) break
      this.#index += 1
      this.#steps.give(change)
    }
    // Nothing that was handed out is held.
    if (this.#index === this.#page.length) this.#page = []
  }

  #hasHeardMoreThan(known: Position | undefined): boolean {
    if (this.#heard === undefined) return false
    const { position, otherHistory } = this.#heard
    if (otherHistory || known === undefined || position.revision > known.revision) return true
    return position.revision === known.revision && !samePosition(position, known)
  }

  #failed(thrown: Error): number | undefined {
    if (this.#ended) return Infinity
    const { error } = failureOf(thrown)
    this.#options.report.failed('feed', error)
    if (!isLasting(error) || this.#answered) return undefined
    this.fail(error)
    return Infinity
  }

  // Behind `await`, another call may have ended it.
  #hasEnded(): boolean {
    return this.#ended
  }
}

function compacted(follows: Exclude<LogReading['follows'], 'all'>): CompactedError {
  const what =
    follows === 'trimmed'
      ? 'The log no longer has all that follows the cursor'
      : "The cluster's history is not the one that the cursor is of"
  return new CompactedError(`${what}: take a fresh snapshot, and go on from its cursor`)
}
