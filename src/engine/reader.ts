/**
 * The cached snapshot, and what moves it on.
 *
 * What has changed is announced by the database, told by the answer of one's own write, or read by a refresh. The
 * first two are deltas, which `take` takes where they begin at the position of the snapshot, revision and stamp.
 * What is not newer is dropped. What comes too early is kept for a moment: an answer often overtakes
 * announcements. If they do not come, a refresh finds out. What a refresh has read began at a position of the
 * snapshot, too: it is dropped where deltas have gone past it meanwhile.
 *
 * A hint, a reconnection, a heartbeat that shows another position, or the cache going unconfirmed for
 * pollMs asks for a refresh. One runs at a time, with one dirty flag: a thousand hints cost one or two.
 * How one goes is in refresh.ts. Only what a query found confirms the cache; what was announced does not.
 *
 * Anybody who may connect can send hints. Where one turned out to say nothing, the next one has to wait
 * for a lull, which doubles each time up to pollMs. It ends with the first change that is found. What
 * others ask for never waits.
 *
 * A lower revision is the lag of a standby, and ignored; from a primary, it is a failover that lost
 * commits: everything is read, and it is reported. So is another history that has reached the cached
 * revision, or passed it.
 */
import { abortedError, Waiting } from '../kit/waiting.js'
import type { WaitOptions } from '../api/wait-options.js'
import { monotonicMs } from '../kit/clock.js'
import { failureOf, isLasting } from './store-error.js'
import { Early, Passed } from './deltas.js'
import { ClosedError, type MembershipError } from '../api/errors.js'
import { Latest } from '../kit/latest.js'
import { Loop } from '../kit/loop.js'
import type { Member } from '../api/member.js'
import type { Report } from './report.js'
import { Refresh, type Cached, type Outcome } from './refresh.js'
import { sameMembers, snapshotAfter } from './snapshot.js'
import type { Snapshot } from '../api/snapshot.js'
import type { Delta, Position, Store } from './store.js'

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

/** What a snapshot has that the one before had not. */
export interface News {
  /** Whom something happened to; undefined: perhaps to anybody. */
  readonly ids: ReadonlySet<string> | undefined
  /** It is of another history, so nothing counts that was known from the one before. */
  readonly anew: boolean
}

const MAX_BACKOFF_MS = 1_000
/** After the first hint that said nothing. Hints of one's own changes do, where those were seen already. */
const FIRST_LULL_MS = 2
/** The longest, where polls are rarer. */
const MAX_LULL_MS = 5_000
/** How long to wait for announcements that others have overtaken, before a refresh. */
const GAP_MS = 20

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
  #cached: Cached | undefined
  /** Not told yet: those of one turn are told together. */
  #news: { ids: Set<string> | undefined; anew: boolean; full: boolean } | undefined
  readonly #passed = new Passed()
  readonly #early = new Early()
  #gapTimer: NodeJS.Timeout | undefined
  /** What a query found last. */
  #confirmed: Position | undefined
  #confirmedMs: number | undefined
  /** The cached members do not fit what happened to them. */
  #wrong = false
  /** Since a connection was lost, nobody has looked whether the history is still the same. */
  #cutOff = false
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
    return this.#cached?.snapshot
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
    return this.#latest.watch(options, () => {
      this.#options.onUse()
      if (this.#cached === undefined) this.#loop.wakeNow()
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

  /** Whether the snapshot is at this position, or after it. */
  shows(position: Position): boolean {
    return !this.#cutOff && this.#cached !== undefined && this.#passed.includes(position)
  }

  /** What happened, says somebody who knows. */
  take(delta: Delta): void {
    if (this.#closed || this.shows(delta.to)) return
    if (delta.from === undefined || this.#isBehind(delta.to)) this.refresh()
    else {
      if (!this.#early.add(delta, delta.from)) this.refresh()
      this.#followUp()
    }
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
    if (this.#cached === undefined || !this.#passed.has(position)) {
      // Behind by no more than announcements that are on their way?
      if (this.#cached !== undefined && revision > this.#cached.position.revision) this.#awaitGap()
      else this.refresh()
      return
    }
    this.#confirmedMs = Math.max(this.#confirmedMs ?? 0, startedMs)
    if (revision >= (this.#confirmed?.revision ?? 0)) this.#confirmed = position
  }

  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#gapTimer)
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
      early: this.#early.count,
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
    this.#early.dropUpTo(refresh.early)
    this.#followUp()
    this.#rejoin()
    this.#confirmedMs = refresh.startedMs
    this.#asked.resolve(undefined, refresh.rank)
    if (outcome.kind !== 'same') this.#lullMs = 0
    else if (hintedOnly) this.#lullMs = this.#longerLullMs()
    if (outcome.kind !== 'same' || hintedOnly) this.#lullEndsMs = monotonicMs() + this.#lullMs
    if (surprised && changed) onSurprise()
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
    this.#report(outcome)
    if (before !== this.#cached && !outcome.otherHistory && this.#isBehind(outcome.position)) {
      this.#wrong = outcome.misfit
      this.#dirty ||= outcome.misfit
      return false
    }
    this.#wrong = false
    this.#confirmed = outcome.position
    if (outcome.otherHistory) this.#passed.clear()
    this.#move(outcome)
    this.#tell({ ids: undefined, anew: outcome.otherHistory }, outcome.kind === 'all')
    return true
  }

  /** Unless the connection was lost once more meanwhile: those who wait are to compare with this snapshot. */
  #rejoin(): void {
    if (!this.#cutOff || this.#dirty) return
    this.#cutOff = false
    this.#options.onSnapshot({ ids: undefined, anew: false })
  }

  #report(outcome: Outcome & { readonly kind: 'changes' | 'all' }): void {
    const { report } = this.#options
    const details = { from: this.#cached?.position.revision ?? 0, to: outcome.position.revision }
    const tell = (error: Error, message: string): void => {
      report.log('error', details, message)
      report.publish('error', { doing: 'refresh', error, ...details })
    }
    if (outcome.lostCommits) {
      tell(new Error('The database lost commits'), 'The database lost commits: its history is another')
    }
    if (outcome.misfit) {
      const error = new Error('The log does not fit the members: all were read')
      tell(error, error.message)
    }
  }

  /** The snapshot is at this revision or after it, in whichever history. */
  #isBehind({ revision }: Position): boolean {
    return this.#cached !== undefined && revision <= this.#cached.position.revision
  }

  /** Takes what was kept for the position at which the snapshot is now. */
  #followUp(): void {
    if (this.#cached === undefined) return
    for (;;) {
      const { snapshot, position }: Cached = this.#cached
      const delta = this.#early.next(position)
      if (delta === undefined) break
      const after = snapshotAfter(snapshot, delta.to.revision, delta.changes)
      if (after === undefined) {
        this.#wrong = true
        this.refresh()
        break
      }
      this.#move({ snapshot: after, position: delta.to })
      this.#tell({ ids: new Set(delta.changes.map(({ member }) => member.id)), anew: false }, false)
    }
    if (this.#early.size > 0) this.#awaitGap()
  }

  #awaitGap(): void {
    const { position } = this.#cached ?? {}
    this.#gapTimer ??= setTimeout(() => {
      this.#gapTimer = undefined
      if (this.#cached?.position === position) this.refresh()
      else if (this.#early.size > 0) this.#awaitGap()
    }, GAP_MS)
  }

  #move({ snapshot, position }: Cached): void {
    this.#passed.add(position)
    this.#cached = { snapshot, position }
  }

  /** Many announcements may arrive at once: whoever watches is told once. */
  #tell({ ids, anew }: News, full: boolean): void {
    const before = this.#news
    this.#news = {
      ids: before === undefined ? new Set(ids) : before.ids,
      anew: anew || before?.anew === true,
      full: full || before?.full === true,
    }
    if (ids === undefined) this.#news.ids = undefined
    else for (const id of ids) this.#news.ids?.add(id)
    if (before === undefined) queueMicrotask(() => this.#publish())
  }

  #publish(): void {
    const { report, onSnapshot } = this.#options
    const { snapshot } = this
    const news = this.#news
    this.#news = undefined
    if (this.#closed || news === undefined || snapshot === undefined) return
    const { revision, members } = snapshot
    report.publish('snapshot', { revision, members: members.length, full: news.full })
    onSnapshot(news)
    this.#latest.publish(members)
  }
}
