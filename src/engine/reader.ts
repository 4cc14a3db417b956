/**
 * What readers are shown, and what makes them look.
 *
 * Deltas move the cached snapshot on (cache.ts). A hint, a gap, a reconnection, a heartbeat that shows another
 * position, or the cache going unconfirmed for pollMs asks for a refresh. One runs at a time, with one dirty flag: a
 * thousand hints cost one or two. How one goes is in refresh.ts. Only what a query found confirms the cache; what was
 * announced does not. What a refresh has read began at a position of the snapshot, too: it is dropped where deltas
 * have gone past it meanwhile.
 *
 * A lower revision is the lag of a standby, and ignored; from a primary, it is a failover that lost
 * commits: everything is read, and it is reported. So is another history that has reached the cached
 * revision, or passed it.
 */
import { ClosedError, type MembershipError } from '../api/errors.js'
import type { Member } from '../api/member.js'
import type { Snapshot } from '../api/snapshot.js'
import type { WaitOptions } from '../api/wait-options.js'
import { monotonicMs } from '../kit/clock.js'
import { Latest } from '../kit/latest.js'
import { Loop } from '../kit/loop.js'
import { abortedError, Waiting } from '../kit/waiting.js'
import { Cache } from './cache.js'
import { Lull } from './lull.js'
import { type News, NewsOfTurn } from './news.js'
import { type Cached, type Outcome, Refresh, reportLosses } from './refresh.js'
import type { Report } from './report.js'
import { sameMembers } from './snapshot.js'
import type { Delta, Position, Store } from './store.js'
import { failureOf, isLasting } from './store-error.js'

export interface CachedReaderOptions {
  readonly store: Store
  readonly pollMs: number
  readonly report: Report
  readonly onSnapshot: (news: News) => void
  /** Whether the database answered the last time it was asked. */
  readonly onAnswer: (answered: boolean) => void
  /** A change was found that nobody had announced, nor hinted at. */
  readonly onSurprise: () => void
  readonly onSweepOverdue: () => void
  /** What is waited for cannot be read, it seems. */
  readonly onRefused: (error: MembershipError) => void
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
  /** Under way, or to be gone on with after a failure; `rank`: whom it answers. */
  #refresh:
    | {
        readonly steps: Refresh
        readonly rank: number
        readonly startedMs: number
        /** How many had come early before it. */
        readonly early: number
      }
    | undefined
  readonly #cache = new Cache({
    onDelta: (ids) => this.#news.add({ ids, anew: false, full: false }),
    onMisfit: () => {
      this.#wrong = true
      this.refresh()
    },
    onGap: () => this.refresh(),
  })
  readonly #news = new NewsOfTurn((news) => this.#publish(news))
  /** What a query found last. */
  #confirmed: Position | undefined
  #confirmedMs: number | undefined
  /** The cached members do not fit what happened to them. */
  #wrong = false
  /** Since a connection was lost, nobody has looked whether the history is still the same. */
  #cutOff = false
  #dirty = true
  #hinted = false
  readonly #lull: Lull
  #closed = false

  constructor(options: CachedReaderOptions) {
    this.#options = options
    this.#lull = new Lull(options.pollMs)
    this.#loop = new Loop({
      run: () => this.#run(),
      onError: (error) => this.#failed(error),
      maxBackoffMs: () => MAX_BACKOFF_MS,
    })
  }

  get #cached(): Cached | undefined {
    return this.#cache.cached
  }

  get snapshot(): Snapshot | undefined {
    return this.#cached?.snapshot
  }

  get position(): Position | undefined {
    return this.#cached?.position
  }

  get ageMs(): number | undefined {
    return this.#confirmedMs === undefined ? undefined : monotonicMs() - this.#confirmedMs
  }

  async getMembers(options: WaitOptions & { readonly fresh?: boolean } = {}): Promise<readonly Member[]> {
    if (options.fresh === true || this.#cached === undefined) await this.refreshed(options)
    else this.#refuse(options)
    return this.snapshot?.members ?? []
  }

  watchMembers(options: WaitOptions = {}): AsyncIterableIterator<readonly Member[]> {
    return this.#latest.watch(options, () => this.load())
  }

  /** The snapshot is to be there, and to follow the database from then on. */
  load(): void {
    this.#options.onUse()
    if (this.#cached === undefined) this.#loop.wakeNow()
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

  /** Whether the snapshot is at this position, or after it. */
  shows(position: Position): boolean {
    return !this.#cutOff && this.#cache.includes(position)
  }

  /** What happened, says somebody who knows. */
  take(delta: Delta): void {
    if (!this.#closed && !this.shows(delta.to)) this.#cache.take(delta)
  }

  /** What a write of one's own has done, which the snapshot is to show. */
  wrote(delta: Delta): void {
    this.take(delta)
    if (this.#cached !== undefined) return
    this.#dirty = true
    this.#loop.wakeNow()
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
    this.#cutOff = this.#cached !== undefined
    this.refresh()
    if (this.#dirty) this.#loop.wakeNow()
  }

  /** The database is reached again: no backoff applies. */
  retry(): void {
    this.#loop.retry()
  }

  /** The database was at this position, at some moment after `startedMs`. */
  confirm(position: Position, startedMs: number): void {
    const { revision } = position
    if (!this.#cache.hasPassed(position)) {
      // Behind by no more than announcements that are on their way?
      if (this.#cached !== undefined && !this.#cache.isBehind(position)) this.#cache.awaitGap()
      else this.refresh()
      return
    }
    this.#confirmedMs = Math.max(this.#confirmedMs ?? 0, startedMs)
    if (revision >= (this.#confirmed?.revision ?? 0)) this.#confirmed = position
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#cache.close()
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
    const surprised = !hinted && this.#asked.size === 0 && this.#cached !== undefined
    this.#dirty = this.#hinted = false
    const refresh = (this.#refresh ??= {
      steps: new Refresh(store, this.#cached, { confirmed: this.#confirmed, all: this.#wrong }),
      rank: this.#refreshes++,
      startedMs: nowMs,
      early: this.#cache.earlyCount,
    })
    let outcome: Outcome | undefined
    while (outcome === undefined) {
      outcome = await refresh.steps.step()
      if (this.#isClosed()) return Infinity
      onAnswer(true)
    }
    this.#refresh = undefined
    report.succeeded('refresh')
    const changed = this.#takeOutcome(outcome, refresh.steps.cached)
    this.#cache.dropEarly(refresh.early)
    this.#cache.followUp()
    this.#rejoin()
    this.#confirmedMs = refresh.startedMs
    this.#asked.resolve(undefined, refresh.rank)
    if (outcome.kind !== 'same') this.#lull.end(monotonicMs())
    else if (hintedOnly) this.#lull.lengthen(monotonicMs())
    if (surprised && changed) onSurprise()
    if (refresh.steps.sweepOverdue) onSweepOverdue()
    return this.#dueMs() - monotonicMs()
  }

  #dueMs(hinted = this.#hinted): number {
    if (this.#dirty || this.#asked.size > 0 || this.#confirmedMs === undefined) return -Infinity
    const pollDueMs = this.#confirmedMs + this.#options.pollMs
    return hinted ? Math.min(this.#lull.endsMs, pollDueMs) : pollDueMs
  }

  /** Until somebody does, nothing is refreshed. */
  #isRead(): boolean {
    return this.#cached !== undefined || this.#asked.size > 0
  }

  // Behind `await`, another call may have closed it.
  #isClosed(): boolean {
    return this.#closed
  }

  #refuse({ signal }: WaitOptions): void {
    if (this.#closed) throw new ClosedError('The cluster is closed')
    if (signal?.aborted === true) throw abortedError(signal, this.#options.report.lastError)
  }

  #failed(thrown: Error): number | undefined {
    if (this.#closed) return Infinity
    const { error } = failureOf(thrown)
    this.#dirty = true
    this.#options.onAnswer(false)
    this.#options.report.failed('refresh', error)
    if (!isLasting(error)) return undefined
    // Perhaps nobody asks again: what has been read so far would be kept for nothing.
    this.#refresh = undefined
    this.#asked.reject(error)
    this.#latest.fail(error)
    this.#options.onRefused(error)
    // A wrong password is not tried again until somebody asks; what worked once may work again.
    return this.#cached === undefined ? Infinity : undefined
  }

  /** Whether it was news. `before`: what it was compared with; deltas may have moved on since. */
  #takeOutcome(outcome: Outcome, before: Cached | undefined): boolean {
    if (outcome.kind === 'same') {
      if (before !== undefined) this.#confirmed = before.position
      return false
    }
    reportLosses(this.#options.report, outcome, this.#cached?.position.revision ?? 0)
    if (before !== this.#cached && !outcome.otherHistory && this.#cache.isBehind(outcome.position)) {
      this.#wrong = outcome.misfit
      this.#dirty ||= outcome.misfit
      return false
    }
    this.#wrong = false
    this.#confirmed = outcome.position
    this.#cache.replace(outcome, outcome.otherHistory)
    this.#news.add({ ids: undefined, anew: outcome.otherHistory, full: outcome.kind === 'all' })
    return true
  }

  /** Unless the connection was lost once more meanwhile: those who wait are to compare with this snapshot. */
  #rejoin(): void {
    if (!this.#cutOff || this.#dirty) return
    this.#cutOff = false
    this.#options.onSnapshot({ ids: undefined, anew: false, full: false })
  }

  #publish(news: News): void {
    const { report, onSnapshot } = this.#options
    const { snapshot } = this
    if (this.#closed || snapshot === undefined) return
    const { revision, members } = snapshot
    report.publish('snapshot', { revision, members: members.length, full: news.full })
    onSnapshot(news)
    this.#latest.publish(members)
  }
}
