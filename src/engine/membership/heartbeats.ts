/**
 * Renews all registrations of this process in one cluster, by one statement.
 *
 * A renewal counts from the start of the attempt. A registration that the database does not find is lost. If somebody
 * has locked its row, the next heartbeat comes soon. Each answer also tells the reader the position of the cluster,
 * and the sweeper when nobody sweeps.
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
  /** How many leases there are now. */
  readonly leases: () => number
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
   * The longest wait between two attempts to reach the database. It is short while this process has a lease: others
   * take a process for crashed when all its connections are gone for its grace.
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

  /** Plans the next heartbeat, for a registration that was made by an attempt begun at `startedMs`. */
  plan(startedMs: number): void {
    const dueMs = this.#dueAfter(startedMs)
    if (dueMs >= this.#dueMs) return
    this.#dueMs = dueMs
    this.#loop.wake()
  }

  /** Sends a heartbeat at once, also during a backoff. */
  beatNow(): void {
    this.#dueMs = -Infinity
    this.#loop.wakeNow()
  }

  /** The database is reached again: ends a backoff. */
  retry(): void {
    this.#loop.retry()
  }

  stop(): Promise<void> {
    return this.#loop.stop()
  }

  async #beat(): Promise<number> {
    const { store, reader, timing, report, memberships, leases, onAnswer, onSweepOverdue } = this.#options
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
    const look = reader.told.look()
    const { locked, missing, sweepOverdue, ...position } = await store.heartbeat(kept)
    onAnswer(true)
    report.succeeded('heartbeat')
    const lockedIds = new Set(locked)
    for (const { membership, id, token } of kept) {
      const reason = missing.get(id)
      if (reason !== undefined) {
        report.log('warn', { id, token, reason }, `Registration removed by others: ${reason}`)
        membership.lost(token, reason, position)
      } else if (!lockedIds.has(id) || membership.lease !== undefined) {
        // If the lease has ended and the row is locked, somebody may be about to remove it: that is no renewal.
        membership.renewed(token, startedMs)
      }
    }
    report.publish('heartbeat', {
      registrations: kept.length,
      leases: leases(),
      durationMs: monotonicMs() - startedMs,
    })
    reader.confirm(position, look)
    if (sweepOverdue) onSweepOverdue()
    if (lockedIds.size > 0) this.#dueMs = Math.min(this.#dueMs, startedMs + timing.ttlMs / 20)
    return this.#dueMs - monotonicMs()
  }

  #failed(thrown: Error): undefined {
    const { error, answered } = failureOf(thrown)
    this.#dueMs = -Infinity
    if (!answered) this.#options.onAnswer(false)
    this.#options.report.failed('heartbeat', error)
  }

  /**
   * A little earlier than heartbeatMs, so that the heartbeat confirms the cache before a poll is due. Random, so that
   * processes do not send heartbeats all at once. On a grid, so that the clusters of this process send them together.
   */
  #dueAfter(startedMs: number): number {
    const { heartbeatMs } = this.#options.timing
    if (heartbeatMs === Infinity) return Infinity
    return sharedMoment(startedMs + heartbeatMs * (0.9 + Math.random() * 0.06), heartbeatMs / 10)
  }
}
