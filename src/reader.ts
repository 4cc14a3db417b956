/**
 * The cached snapshot, and its refreshes.
 *
 * A hint, a reconnection, a heartbeat that shows another position, or the cache going unconfirmed for
 * pollMs asks for a refresh. One runs at a time, with one dirty flag: a thousand hints cost one or two.
 * How one goes is in refresh.ts.
 *
 * Anybody who may connect can send hints. Where one turned out to say nothing, the next one has to wait
 * for a lull, which doubles each time up to pollMs. It ends with the first change that is found. What
 * others ask for never waits.
 *
 * A lower revision is the lag of a standby, and ignored; from a primary, it is a failover that lost
 * commits: everything is read, and it is reported. So is another history that has reached the cached
 * revision, or passed it.
 */
import { abortedError, Waiting, type WaitOptions } from './waiting.js'
import { monotonicMs } from './clock.js'
import { permanentError } from './database-errors.js'
import { ClosedError } from './errors.js'
import { Latest } from './latest.js'
import { Loop } from './loop.js'
import type { Member } from './member.js'
import type { Report } from './report.js'
import { Refresh, type Outcome } from './refresh.js'
import { sameMembers, type Snapshot } from './snapshot.js'
import { samePosition, type Position, type Store } from './store.js'

export interface CachedReaderOptions {
  readonly store: Store
  readonly pollMs: number
  readonly report: Report
  readonly onSnapshot: (snapshot: Snapshot) => void
  /** Whether the database answered the last time it was asked. */
  readonly onAnswer: (answered: boolean) => void
  /** A change was found that no hint had announced. */
  readonly onSurprise: () => void
  readonly onSweepOverdue: () => void
  /** Before anything is read. */
  readonly onUse: () => void
}

const MAX_BACKOFF_MS = 1_000
/** After the first hint that said nothing. Hints of one's own changes do, where those were seen already. */
const FIRST_LULL_MS = 2
/** The longest, where polls are rarer. */
const MAX_LULL_MS = 5_000

export class CachedReader {
  readonly #options: CachedReaderOptions
  readonly #latest = new Latest<readonly Member[]>(sameMembers)
  readonly #loop: Loop
  /** Those who wait for a refresh that begins after they asked, ranked by when they did. */
  readonly #asked = new Waiting<undefined>()
  #refreshes = 0
  /** Under way, or to be gone on with after a failure; `rank`: whom it answers. */
  #refresh: { readonly steps: Refresh; readonly rank: number; readonly startedMs: number } | undefined
  #snapshot: Snapshot | undefined
  #position: Position | undefined
  #confirmedMs: number | undefined
  #dirty = true
  #hinted = false
  #lullMs = 0
  #lullEndsMs = -Infinity
  #closed = false

  constructor(options: CachedReaderOptions) {
    this.#options = options
    this.#loop = new Loop({
      run: () => this.#run(),
      onError: (error) => this.#failed(error),
      maxBackoffMs: () => MAX_BACKOFF_MS,
    })
  }

  get snapshot(): Snapshot | undefined {
    return this.#snapshot
  }

  get ageMs(): number | undefined {
    return this.#confirmedMs === undefined ? undefined : monotonicMs() - this.#confirmedMs
  }

  async getMembers(options: WaitOptions & { readonly fresh?: boolean } = {}): Promise<readonly Member[]> {
    if (options.fresh === true || this.#snapshot === undefined) await this.refreshed(options)
    else this.#refuse(options)
    return this.#snapshot?.members ?? []
  }

  watchMembers(options: WaitOptions = {}): AsyncIterableIterator<readonly Member[]> {
    return this.#latest.watch(options, () => {
      this.#options.onUse()
      if (this.#snapshot === undefined) this.#loop.wakeNow()
    })
  }

  /** After a refresh that began after this call, whatever it showed. Keeps trying while the database is away. */
  async refreshed(options: WaitOptions = {}): Promise<void> {
    this.#refuse(options)
    this.#options.onUse()
    const wait = this.#asked.wait(options, () => this.#options.report.lastError, this.#refreshes)
    this.#dirty = true
    this.#loop.wakeNow()
    await wait
  }

  /** Something may have changed, says somebody. */
  hint(): void {
    this.#hinted = true
    if (this.#isRead()) this.#loop.wake()
  }

  /** Hints may have been missed. */
  missed(): void {
    this.#hinted = true
    this.refresh()
  }

  refresh(): void {
    if (!this.#isRead()) return
    this.#dirty = true
    this.#loop.wake()
  }

  /** The connection was lost, or is back: no backoff applies. */
  recover(): void {
    this.refresh()
    if (this.#dirty) this.#loop.wakeNow()
  }

  /** The database is reached again: no backoff applies. */
  retry(): void {
    this.#loop.retry()
  }

  /** The database was at this position, at some moment after `startedMs`. */
  confirm(position: Position, startedMs: number): void {
    if (this.#position !== undefined && samePosition(position, this.#position)) {
      this.#confirmedMs = Math.max(this.#confirmedMs ?? 0, startedMs)
    } else {
      this.refresh()
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    const stopped = this.#loop.stop()
    this.#latest.end()
    this.#asked.reject(new ClosedError('The cluster is closed'))
    await stopped
  }

  async #run(): Promise<number> {
    const { store, report, onAnswer, onSurprise, onSweepOverdue } = this.#options
    const dueMs = this.#dueMs()
    const nowMs = monotonicMs()
    if (nowMs < dueMs) return dueMs - nowMs
    const hinted = this.#hinted
    const hintedOnly = hinted && nowMs < this.#dueMs(false)
    const surprised = !hinted && this.#asked.size === 0 && this.#position !== undefined
    this.#dirty = this.#hinted = false
    const cached = this.#snapshot && this.#position && { snapshot: this.#snapshot, position: this.#position }
    const refresh = (this.#refresh ??= {
      steps: new Refresh(store, cached),
      rank: this.#refreshes++,
      startedMs: nowMs,
    })
    let outcome: Outcome | undefined
    while (outcome === undefined) {
      outcome = await refresh.steps.step()
      if (this.#isClosed()) return Infinity
      onAnswer(true)
    }
    this.#refresh = undefined
    report.succeeded('refresh')
    this.#take(outcome)
    this.#confirmedMs = refresh.startedMs
    this.#asked.resolve(undefined, refresh.rank)
    if (outcome.kind !== 'same') this.#lullMs = 0
    else if (hintedOnly) this.#lullMs = this.#longerLullMs()
    if (outcome.kind !== 'same' || hintedOnly) this.#lullEndsMs = monotonicMs() + this.#lullMs
    if (surprised && outcome.kind !== 'same') onSurprise()
    if (refresh.steps.sweepOverdue) onSweepOverdue()
    return this.#dueMs() - monotonicMs()
  }

  #dueMs(hinted = this.#hinted): number {
    if (this.#dirty || this.#asked.size > 0 || this.#confirmedMs === undefined) return -Infinity
    const pollDueMs = this.#confirmedMs + this.#options.pollMs
    return hinted ? Math.min(this.#lullEndsMs, pollDueMs) : pollDueMs
  }

  #longerLullMs(): number {
    const { pollMs } = this.#options
    // Where nobody polls, hints are all there is.
    if (pollMs === Infinity) return 0
    return Math.min(this.#lullMs * 2 || FIRST_LULL_MS, pollMs, MAX_LULL_MS)
  }

  /** Until somebody does, nothing is refreshed. */
  #isRead(): boolean {
    return this.#snapshot !== undefined || this.#asked.size > 0
  }

  // Behind `await`, another call may have closed it.
  #isClosed(): boolean {
    return this.#closed
  }

  #refuse({ signal }: WaitOptions): void {
    if (this.#closed) throw new ClosedError('The cluster is closed')
    if (signal?.aborted === true) throw abortedError(signal, this.#options.report.lastError)
  }

  #failed(error: Error): number | undefined {
    if (this.#closed) return Infinity
    const permanent = permanentError(error)
    this.#dirty = true
    this.#options.onAnswer(false)
    this.#options.report.failed('refresh', permanent ?? error)
    if (permanent === undefined) return undefined
    // Perhaps nobody asks again: what has been read so far would be kept for nothing.
    this.#refresh = undefined
    this.#asked.reject(permanent)
    this.#latest.fail(permanent)
    // A wrong password is not tried again until somebody asks; what worked once may work again.
    return this.#snapshot === undefined ? Infinity : undefined
  }

  #take(outcome: Outcome): void {
    if (outcome.kind === 'same') return
    const { report, onSnapshot } = this.#options
    const { snapshot, position } = outcome
    const details = { from: this.#position?.revision ?? 0, to: position.revision }
    if (outcome.otherHistory) {
      report.log('error', details, 'The database lost commits: its history is another')
      report.publish('error', { doing: 'refresh', error: new Error('The database lost commits'), ...details })
    }
    if (outcome.misfit) {
      const error = new Error('The log does not fit the members: all were read')
      report.log('error', details, error.message)
      report.publish('error', { doing: 'refresh', error, ...details })
    }
    this.#snapshot = snapshot
    this.#position = position
    const { revision, members } = snapshot
    report.publish('snapshot', { revision, members: members.length, full: outcome.kind === 'all' })
    onSnapshot(snapshot)
    this.#latest.publish(members)
  }
}
