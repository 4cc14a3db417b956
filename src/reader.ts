/**
 * The cached snapshot, and its refreshes.
 *
 * A hint, a reconnection, a heartbeat that shows another position, or the cache going unconfirmed for
 * pollMs asks for a refresh. One runs at a time, with one dirty flag: a thousand hints cost one or two.
 * A refresh reads what happened since the cached position; everything, when that is not known any more.
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
import { sameMembers, snapshotAfter, snapshotOf, type Snapshot } from './snapshot.js'
import type { Position, Reading, Store } from './store.js'

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

export class CachedReader {
  readonly #options: CachedReaderOptions
  readonly #latest = new Latest<readonly Member[]>(sameMembers)
  readonly #loop: Loop
  /** Those who wait for a refresh that begins after they asked, ranked by when they did. */
  readonly #asked = new Waiting<undefined>()
  #refreshes = 0
  #snapshot: Snapshot | undefined
  #position: Position | undefined
  #confirmedMs: number | undefined
  #dirty = true
  #hinted = false
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

  /** Something may have changed. */
  hint(): void {
    this.#hinted = true
    this.refresh()
  }

  refresh(): void {
    // Nobody reads yet.
    if (this.#snapshot === undefined && this.#asked.size === 0) return
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
    if (position.revision === this.#position?.revision && position.stamp === this.#position.stamp) {
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
    const { store, pollMs, onAnswer, onSurprise, onSweepOverdue } = this.#options
    const startedMs = monotonicMs()
    const dueMs = (this.#confirmedMs ?? -Infinity) + pollMs
    if (!this.#dirty && startedMs < dueMs) return dueMs - startedMs
    this.#dirty = false
    const begun = this.#refreshes++
    const surprised = !this.#hinted && this.#asked.size === 0 && this.#position !== undefined
    this.#hinted = false
    const reading = await store.read(this.#position)
    if (this.#isClosed()) return Infinity
    onAnswer(true)
    this.#take(reading)
    this.#confirmedMs = startedMs
    this.#asked.resolve(undefined, begun)
    if (surprised && reading.kind !== 'same') onSurprise()
    if (reading.sweepOverdue) onSweepOverdue()
    return pollMs
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
    this.#asked.reject(permanent)
    this.#latest.fail(permanent)
    // A wrong password is not tried again until somebody asks; what worked once may work again.
    return this.#snapshot === undefined ? Infinity : undefined
  }

  #take(reading: Reading): void {
    const { report, onSnapshot } = this.#options
    const before = this.#snapshot
    if (reading.kind === 'same') return
    if (reading.kind === 'changes') {
      if (before === undefined) return
      this.#snapshot = snapshotAfter(before, reading.revision, reading.changes)
    } else {
      const seen = this.#position ?? { revision: 0, stamp: '' }
      const regressed = reading.revision < seen.revision
      if (regressed && reading.recovering) return
      if (
        regressed ||
        reading.diverged ||
        (before !== undefined && reading.revision === seen.revision && reading.stamp !== seen.stamp)
      ) {
        const details = { from: seen.revision, to: reading.revision }
        report.log('error', details, 'The database lost commits: its history is another')
        report.publish('error', {
          doing: 'refresh',
          error: new Error('The database lost commits'),
          ...details,
        })
      }
      this.#snapshot = snapshotOf(reading.revision, reading.members, before)
    }
    this.#position = { revision: reading.revision, stamp: reading.stamp }
    const { revision, members } = this.#snapshot
    report.publish('snapshot', { revision, members: members.length, full: reading.kind === 'all' })
    onSnapshot(this.#snapshot)
    this.#latest.publish(members)
  }
}
