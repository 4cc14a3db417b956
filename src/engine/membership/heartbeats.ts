/**
 * Renews all registrations of this process in one cluster, by one statement.
 *
 * A renewal counts from the start of the attempt. What the database does not find is lost; what somebody
 * holds locked is tried again soon. Each answer also tells the reader where the cluster is, and the
 * sweeper when nobody sweeps.
 */
import { monotonicMs, sharedMoment } from '../../kit/clock.js'
import { Loop } from '../../kit/loop.js'
import type { Timing } from '../options.js'
import type { CachedReader } from '../reader.js'
import type { Report } from '../report.js'
import type { Store } from '../store.js'
import { failureOf } from '../store-error.js'
import type { OwnMembership } from './own-membership.js'

export interface HeartbeatsOptions {
  readonly store: Store
  readonly reader: CachedReader
  readonly timing: Pick<Timing, 'ttlMs' | 'heartbeatMs' | 'crashGraceMs'>
  readonly report: Report
  readonly memberships: () => Iterable<OwnMembership>
  readonly onAnswer: (answered: boolean) => void
  readonly onSweepOverdue: () => void
}

const MAX_BACKOFF_MS = 1_000

export class Heartbeats {
  readonly #options: HeartbeatsOptions
  readonly #loop: Loop
  #dueMs = Infinity

  constructor(options: HeartbeatsOptions) {
    this.#options = options
    this.#loop = new Loop({
      run: () => this.#beat(),
      onError: (error) => this.#failed(error),
      maxBackoffMs: () => this.patienceMs,
    })
  }

  /**
   * How long to wait at most between two attempts to reach the database. A process whose connections are
   * all gone is taken for crashed after its grace; when its leases have ended, there is nothing to save.
   */
  get patienceMs(): number {
    const { memberships, timing } = this.#options
    for (const { lease } of memberships()) {
      if (lease === undefined) continue
      const { ttlMs, crashGraceMs } = timing
      return Math.min(MAX_BACKOFF_MS, ttlMs / 10, crashGraceMs === false ? Infinity : crashGraceMs / 4)
    }
    return MAX_BACKOFF_MS
  }

  /** There is a registration that was renewed by an attempt begun at `startedMs`. */
  expect(startedMs: number): void {
    const dueMs = this.#dueAfter(startedMs)
    if (dueMs >= this.#dueMs) return
    this.#dueMs = dueMs
    this.#loop.wake()
  }

  /** Also where the last one failed. */
  beatNow(): void {
    this.#dueMs = -Infinity
    this.#loop.wakeNow()
  }

  /** The database is reached again: no backoff applies. */
  retry(): void {
    this.#loop.retry()
  }

  stop(): Promise<void> {
    return this.#loop.stop()
  }

  async #beat(): Promise<number> {
    const { store, reader, timing, report, memberships, onAnswer, onSweepOverdue } = this.#options
    const kept = [...memberships()].flatMap((membership) => {
      const { keptToken } = membership.state
      return keptToken === undefined ? [] : [{ membership, id: membership.id, token: keptToken }]
    })
    const startedMs = monotonicMs()
    if (kept.length === 0) {
      this.#dueMs = Infinity
      report.succeeded('heartbeat')
    }
    if (startedMs < this.#dueMs) return this.#dueMs - startedMs
    this.#dueMs = this.#dueAfter(startedMs)
    const { locked, missing, sweepOverdue, ...position } = await store.heartbeat(kept)
    onAnswer(true)
    report.succeeded('heartbeat')
    const held = new Set(locked)
    for (const { membership, id, token } of kept) {
      const reason = missing.get(id)
      if (reason !== undefined) {
        report.log('warn', { id, token, reason }, `Registration removed by others: ${reason}`)
        membership.lost(token, reason, position)
      } else if (!held.has(id) || membership.lease !== undefined) {
        // Where the row is locked after its lease has ended, somebody may be about to remove it.
        membership.renewed(token, startedMs)
      }
    }
    report.publish('heartbeat', { registrations: kept.length, durationMs: monotonicMs() - startedMs })
    reader.confirm(position, startedMs)
    if (sweepOverdue) onSweepOverdue()
    if (held.size > 0) this.#dueMs = Math.min(this.#dueMs, startedMs + timing.ttlMs / 20)
    return this.#dueMs - monotonicMs()
  }

  #failed(thrown: Error): undefined {
    const { error, answered } = failureOf(thrown)
    this.#dueMs = -Infinity
    if (!answered) this.#options.onAnswer(false)
    this.#options.report.failed('heartbeat', error)
  }

  /**
   * A little early, so that a heartbeat comes before the poll that it spares; not all processes at once, but all
   * clusters of this one at few moments.
   */
  #dueAfter(startedMs: number): number {
    const { heartbeatMs } = this.#options.timing
    if (heartbeatMs === Infinity) return Infinity
    return sharedMoment(startedMs + heartbeatMs * (0.9 + Math.random() * 0.06), heartbeatMs / 10)
  }
}
