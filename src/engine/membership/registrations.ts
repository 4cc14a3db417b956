/**
 * All memberships of this process in one cluster. writer.ts writes for them, heartbeats.ts renews them, and this file
 * compares them with the snapshot. A call that waits for a step resolves when this process's snapshot has reached the
 * position that the database's answer has told.
 */
import type { LeaseMessage } from '../../api/diagnostics.js'
import { type MembershipError, MembershipLostError } from '../../api/errors.js'
import type { Lease } from '../../api/lease.js'
import type { MembershipOptions } from '../../api/membership.js'
import type { QueryClient } from '../../api/query-client.js'
import type { Registration } from '../../api/registration.js'
import type { Snapshot } from '../../api/snapshot.js'
import type { News } from '../news.js'
import type { Timing } from '../options.js'
import type { CachedReader } from '../reader.js'
import type { Report } from '../report.js'
import type { Store } from '../store.js'
import { Heartbeats } from './heartbeats.js'
import { type Host, OwnMembership } from './own-membership.js'
import { Writer } from './writer.js'

export interface RegistrationsOptions {
  readonly store: Store
  readonly reader: CachedReader
  readonly timing: Pick<Timing, 'ttlMs' | 'heartbeatMs' | 'crashGraceMs'>
  readonly report: Report
  readonly onAnswer: (answered: boolean) => void
  readonly onSweepOverdue: () => void
  /** Called before anything is written. */
  readonly onUse: () => void
}

export class Registrations implements Host {
  readonly #options: RegistrationsOptions
  readonly #memberships = new Map<string, OwnMembership>()
  /** Memberships with a step that is done, or may be, and that the snapshot does not show yet. */
  readonly #unseen = new Set<OwnMembership>()
  readonly #writer: Writer
  readonly #heartbeats: Heartbeats
  /** How many leases there are now. */
  #leases = 0
  #closed = false

  constructor(options: RegistrationsOptions) {
    this.#options = options
    this.#heartbeats = new Heartbeats({
      ...options,
      memberships: () => this.#memberships.values(),
      leases: () => this.#leases,
    })
    this.#writer = new Writer({
      ...options,
      onRegistered: (startedMs) => this.#heartbeats.plan(startedMs),
      onUnanswered: (membership) => this.#unseen.add(membership),
      onAnswered: (batch) => this.#reconcileAll(batch),
    })
  }

  get ttlMs(): number {
    return this.#options.timing.ttlMs
  }

  create(options: Required<MembershipOptions>): OwnMembership {
    return new OwnMembership(this, options)
  }

  get closed(): boolean {
    return this.#closed
  }

  /** Whether the registration is one of this process, and is to stay. */
  has({ id, token }: Registration): boolean {
    return this.#memberships.get(id)?.state.keptToken === token
  }

  lastError(): Error | undefined {
    return this.#options.report.lastError
  }

  wake(membership: OwnMembership): void {
    this.#memberships.set(membership.id, membership)
    this.#options.onUse()
    this.#writer.add(membership)
  }

  rest(membership: OwnMembership): void {
    // Forget it: thousands may come and go in the life of a process.
    if (membership.isAtRest) this.#memberships.delete(membership.id)
  }

  /** Fences the registration that the snapshot shows, because callers act on that one. There may be a newer one. */
  fence(client: QueryClient, { id, token }: Registration): Promise<void> {
    const { store, reader } = this.#options
    return store.fence(client, { id, token: reader.snapshot?.get(id)?.token ?? token })
  }

  leaseChanged(id: string, { token, signal }: Lease, state: 'granted' | 'ended'): void {
    const { report } = this.#options
    const error = signal.reason as LeaseMessage['error']
    const lost = error instanceof MembershipLostError
    this.#leases += state === 'granted' ? 1 : -1
    report.publish('lease', { id, token, state, leases: this.#leases, error })
    report.log(
      lost ? 'warn' : 'info',
      { id, token, ...(error === undefined ? {} : { err: error }) },
      `Lease ${lost ? `lost: ${error.reason}` : state}`,
    )
  }

  /** Compares the snapshot with the memberships that something happened to, and with those that wait for it. */
  reconcile({ ids, otherHistory }: News): void {
    if (otherHistory) for (const { state } of this.#memberships.values()) state.historyLost()
    if (ids === undefined) {
      this.#reconcileAll(this.#memberships.values())
      return
    }
    const named = [...ids].flatMap((id) => this.#memberships.get(id) ?? [])
    this.#reconcileAll(new Set([...named, ...this.#unseen]))
  }

  /** The snapshot cannot be refreshed, and waiting does not seem to cure it: calls that wait for the snapshot fail. */
  refused(error: MembershipError): void {
    for (const membership of this.#unseen) {
      if (membership.state.nextStep() === undefined) membership.failed(error)
    }
  }

  /** The longest wait between two attempts to reach the database. */
  get patienceMs(): number {
    return this.#heartbeats.patienceMs
  }

  /** The database is reached again: ends a backoff. */
  retry(): void {
    this.#heartbeats.retry()
    this.#writer.retry()
  }

  /** The connection was lost, or is back: the first statement on a new one is a heartbeat. */
  recover(): void {
    this.#heartbeats.beatNow()
    this.#writer.recover()
  }

  /** Ends all leases, as if no heartbeat had got through. The next heartbeat that gets through makes new ones. */
  distrust(): void {
    for (const membership of this.#memberships.values()) membership.distrust()
  }

  /** Ends all leases, and deregisters everything in one statement, or gives up after `deadlineMs`. */
  async close(deadlineMs: number): Promise<void> {
    const memberships = [...this.#memberships.values()]
    this.#closed = true
    for (const membership of memberships) membership.startClosing()
    const heartbeatsStopped = this.#heartbeats.stop()
    await this.#writer.close(memberships, deadlineMs, heartbeatsStopped)
    for (const membership of memberships) membership.finishClosing()
  }

  #reconcileAll(memberships: Iterable<OwnMembership>): void {
    const { snapshot } = this.#options.reader
    for (const membership of memberships) {
      if (snapshot === undefined) this.#unseen.add(membership)
      else this.#reconcile(membership, snapshot)
    }
  }

  #reconcile(membership: OwnMembership, snapshot: Snapshot): void {
    const { at } = membership.state
    if (at !== undefined && !this.#options.reader.shows(at)) {
      this.#unseen.add(membership)
      return
    }
    if (!membership.isLate) this.#unseen.delete(membership)
    if (membership.reconcile(snapshot)) this.#heartbeats.beatNow()
    this.rest(membership)
  }
}
