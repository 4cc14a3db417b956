/**
 * Keeps the snapshot, and decides when to read from the database.
 *
 * Deltas move the cached snapshot on (cache.ts). A refresh reads what is missing (refresh.ts). What asks for one is a
 * hint, a gap, a reconnection, a heartbeat at another position, or a cache that was not confirmed for pollMs. One
 * refresh runs at a time, with one dirty flag: a thousand hints cost one or two refreshes. Only a query confirms the
 * cache; an announcement does not. If deltas have meanwhile moved the snapshot past the outcome of a refresh, the
 * outcome is dropped.
 *
 * Each answer of the database is compared with what this process had been told before it asked (told.ts). If a primary
 * does not have that, a failover has lost commits: all members are read, and the loss is reported. A standby may lag,
 * and is ignored.
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
import { type ReceivedDelta, reportDelta } from './deltas.js'
import { Lull } from './lull.js'
import { type News, NewsOfTick } from './news.js'
import { type Cached, type Outcome, Refresh, reportDifference, reportLosses } from './refresh.js'
import type { Report } from './report.js'
import { sameMembers } from './snapshot.js'
import type { Delta, Position, Store } from './store.js'
import { failureOf, isLasting } from './store-error.js'
import { type Look, lostOf, Told } from './told.js'

export interface CachedReaderOptions {
  readonly store: Store
  readonly pollMs: number
  readonly report: Report
  readonly onSnapshot: (news: News) => void
  /** Whether the database answered the last time it was asked. */
  readonly onAnswer: (answered: boolean) => void
  /** A refresh found a change that was neither announced nor hinted at. */
  readonly onSurprise: () => void
  readonly onSweepOverdue: () => void
  /** A refresh failed, and waiting does not seem to cure it. */
  readonly onRefused: (error: MembershipError) => void
  /** Called before anything is read. */
  readonly onUse: () => void
}

const MAX_BACKOFF_MS = 1_000

export class CachedReader {
  readonly #options: CachedReaderOptions
  readonly #latest = new Latest<readonly Member[]>(sameMembers)
  readonly #loop: Loop
  /** Calls that wait for a refresh which begins after they asked. Rank: how many refreshes had begun before. */
  readonly #asked = new Waiting<undefined>()
  #refreshes = 0
  /** The refresh that is under way, or goes on after a failure. It answers the waits up to its rank. */
  #refresh:
    | {
        readonly steps: Refresh
        readonly rank: number
        readonly startedMs: number
        /** The cache's `earlyCount` when the refresh began. */
        readonly early: number
      }
    | undefined
  readonly #cache = new Cache({
    onDelta: (ids, delta) => {
      this.#news.add({ ids, otherHistory: false, full: false })
      reportDelta(this.#options.report, delta)
    },
    onMisfit: () => {
      this.#mustReadAll = true
      this.refresh()
    },
    onGap: () => this.refresh(),
  })
  readonly #news = new NewsOfTick((news) => this.#publish(news))
  /** Who asks the database where the cluster is looks first (`look`), and then lets the answer `confirm`. */
  readonly told = new Told()
  #confirmedMs: number | undefined
  /** A change did not fit the cached members: the next refresh must read all members. */
  #mustReadAll = false
  /** A connection was lost, and no refresh has checked yet whether the history is still the same. */
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

  get snapshot(): Snapshot | undefined {
    return this.#cache.cached?.snapshot
  }

  get position(): Position | undefined {
    return this.#cache.cached?.position
  }

  get ageMs(): number | undefined {
    return this.#confirmedMs === undefined ? undefined : monotonicMs() - this.#confirmedMs
  }

  async getMembers(options: WaitOptions & { readonly fresh?: boolean } = {}): Promise<readonly Member[]> {
    if (options.fresh === true || this.#cache.cached === undefined) await this.refreshed(options)
    else this.#refuse(options)
    return this.snapshot?.members ?? []
  }

  watchMembers(options: WaitOptions = {}): AsyncIterableIterator<readonly Member[]> {
    return this.#latest.watch(options, () => this.load())
  }

  /** The snapshot is to be there, and to follow the database from then on. */
  load(): void {
    this.#options.onUse()
    if (this.#cache.cached === undefined) this.#loop.wakeNow()
  }

  /** Resolves after a refresh that began after this call. Keeps trying while the database cannot be reached. */
  async refreshed(options: WaitOptions = {}): Promise<void> {
    this.#refuse(options)
    this.#options.onUse()
    const wait = this.#asked.wait(options, () => this.#options.report.lastError, this.#refreshes)
    this.#dirty = true
    this.#loop.wakeNow()
    await wait
  }

  /** Whether the snapshot is at this position or after it. */
  shows(position: Position): boolean {
    return !this.#cutOff && this.#cache.includes(position)
  }

  /** Takes a delta of an announcement with the right code, or of an answer: it is true. */
  take(delta: Delta, source: ReceivedDelta['source'] = 'announcement'): void {
    if (this.#closed || this.#cache.hasPassed(delta.to)) return
    this.told.add(delta.to, delta.from)
    if (!this.shows(delta.to)) this.#cache.take({ ...delta, source })
  }

  /** Takes the delta of this process's own write. Loads a snapshot if there is none yet: it must show the write. */
  wrote(delta: Delta): void {
    this.take(delta, 'answer')
    if (this.#cache.cached !== undefined) return
    this.#dirty = true
    this.#loop.wakeNow()
  }

  /** Somebody says that something may have changed. */
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

  /** The connection was lost, or is back: ends a backoff. */
  recover(): void {
    this.#cutOff = this.#cache.cached !== undefined
    this.refresh()
    if (this.#dirty) this.#loop.wakeNow()
  }

  /** The database is reached again: ends a backoff. */
  retry(): void {
    this.#loop.retry()
  }

  /** The database was at this position, at some moment after the look. */
  confirm(position: Position, look: Look): void {
    if (lostOf(look.told, position) !== undefined) this.refresh()
    else if (this.#cache.hasPassed(position)) {
      this.#confirmedMs = Math.max(this.#confirmedMs ?? 0, look.startedMs)
      // The snapshot has passed positions of one history only: where the newest is, the others are, too.
      if (look.told.every((one) => this.#cache.hasPassed(one))) this.told.settle(look, position)
      else this.refresh()
    } else {
      this.told.add(position)
      this.#cache.miss(position)
    }
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
    const surprised = !hinted && this.#asked.size === 0 && this.#cache.cached !== undefined
    this.#dirty = this.#hinted = false
    const refresh = (this.#refresh ??= {
      steps: new Refresh(store, this.#cache.cached, { told: this.told, all: this.#mustReadAll }),
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
    report.publish('refresh', { kind: outcome.kind, durationMs: monotonicMs() - refresh.startedMs })
    if (this.#takeOutcome(outcome, refresh.steps.cached) && surprised) onSurprise()
    this.#cache.dropEarly(refresh.early)
    this.#cache.applyEarly()
    this.#endCutOff()
    this.#confirmedMs = refresh.startedMs
    this.#asked.resolve(undefined, refresh.rank)
    if (outcome.kind !== 'same') this.#lull.end(monotonicMs())
    else if (hintedOnly) this.#lull.lengthen(monotonicMs())
    if (refresh.steps.sweepOverdue) onSweepOverdue()
    return this.#dueMs() - monotonicMs()
  }

  #dueMs(hinted = this.#hinted): number {
    if (this.#dirty || this.#asked.size > 0 || this.#confirmedMs === undefined) return -Infinity
    const pollDueMs = this.#confirmedMs + this.#options.pollMs
    return hinted ? Math.min(this.#lull.endsMs, pollDueMs) : pollDueMs
  }

  /** Whether anybody reads this cluster. Until then nothing is refreshed. */
  #isRead(): boolean {
    return this.#cache.cached !== undefined || this.#asked.size > 0
  }

  // During an `await`, another call may have closed it.
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
    // Perhaps nobody asks again: do not keep what was read so far.
    this.#refresh = undefined
    this.#asked.reject(error)
    this.#latest.fail(error)
    this.#options.onRefused(error)
    // A wrong password is not tried again before the next call. But what has worked before may work again.
    return this.#cache.cached === undefined ? Infinity : undefined
  }

  /** Returns whether the snapshot changed. `before`: what was cached when the refresh began. */
  #takeOutcome(outcome: Outcome, before: Cached | undefined): boolean {
    if (outcome.kind === 'same') return false
    const [otherHistory, overtaken] = [outcome.lost !== undefined, before !== this.#cache.cached]
    reportLosses(this.#options.report, outcome, this.#cache.cached?.position.revision ?? 0)
    if (overtaken && !otherHistory && this.#cache.isBehind(outcome.position)) {
      this.#mustReadAll = outcome.misfit
      this.#dirty ||= outcome.misfit || !this.#cache.hasPassed(outcome.position)
      return false
    }
    // What was kept of the new history has gone, too.
    this.#dirty ||= otherHistory
    this.#mustReadAll = false
    reportDifference(this.#options.report, this.snapshot, outcome.snapshot)
    this.#cache.replace(outcome, before, otherHistory)
    this.#news.add({ ids: undefined, otherHistory, full: outcome.kind === 'all' })
    return true
  }

  /** The history was checked, unless the connection was lost again: memberships compare with the snapshot again. */
  #endCutOff(): void {
    if (!this.#cutOff || this.#dirty) return
    this.#cutOff = false
    this.#options.onSnapshot({ ids: undefined, otherHistory: false, full: false })
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
