/**
 * The memberships of this process that the database keeps away, because somebody evicted them. They go on asking, once
 * per heartbeat: the eviction may end, or be taken back.
 */
import { monotonicMs } from '../../kit/clock.js'
import type { Report } from '../report.js'
import type { Eviction } from '../store.js'
import type { OwnMembership } from './own-membership.js'

interface Refusal extends Eviction {
  /** When to ask again. */
  readonly dueMs: number
}

export class Evictions {
  readonly #report: Report
  readonly #pauseMs: number
  readonly #refusals = new Map<OwnMembership, Refusal>()

  constructor(report: Report, pauseMs: number) {
    this.#report = report
    this.#pauseMs = pauseMs
  }

  /** The milliseconds until this membership may ask again; 0 or less: now. */
  waitMs(membership: OwnMembership): number {
    return (this.#refusals.get(membership)?.dueMs ?? -Infinity) - monotonicMs()
  }

  /** An attempt to register was refused. */
  refused(membership: OwnMembership, { byRole, note, until }: Eviction): void {
    const { id } = membership
    const known = this.#refusals.get(membership)
    if (known?.byRole !== byRole || known.note !== note || known.until !== until) {
      this.#report.publish('eviction', { id, byRole, note, until })
    }
    this.#refusals.set(membership, { byRole, note, until, dueMs: monotonicMs() + this.#pauseMs })
    const end = until === undefined ? '' : ` (until ${until})`
    this.#report.failed('register', new Error(`evicted by ${byRole}: ${note}${end}`))
  }

  /** Forgets those that are registered, or do not want to be any more. */
  settle(): void {
    for (const membership of this.#refusals.keys()) {
      if (membership.state.nextStep() !== 'register') this.#refusals.delete(membership)
    }
    if (this.#refusals.size === 0) this.#report.succeeded('register')
  }
}
