/**
 * All memberships of this process in one cluster: what is written for them (writer.ts), what keeps them
 * (heartbeats.ts), and what the snapshot shows of them. Who waits for a step is told when this process's snapshot
 * has reached the position at which the database's answer said it can be seen.
 */
import type { LeaseMessage } from '../../api/diagnostics.js'
import { type MembershipError, MembershipLostError } from '../../api/errors.js'
import type { Lease } from '../../api/lease.js'
import type { MembershipOptions } from '../../api/membership.js'
import type { QueryClient } from '../../api/query-client.js'
import type { Snapshot } from '../../api/snapshot.js'
import type { News } from '../news.js'
import type { Timing } from '../options.js'
import type { CachedReader } from '../reader.js'
import type { Report } from '../report.js'
import type { Registration, Store } from '../store.js'
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
  /** Before anything is written. */
  readonly onUse: () => void
}

export class Registrations implements Host {
  readonly #options: RegistrationsOptions
  readonly #memberships = new Map<string, OwnMembership>()
  /** What was done for them, or may have been, is not in the snapshot yet. */
  readonly #unseen = new Set<OwnMembership>()
  readonly #writer: Writer
  readonly #heartbeats: Heartbeats
  #closed = false

  constructor(options: RegistrationsOptions) {
    this.#options = options
    this.#heartbeats = new Heartbeats({ ...options, memberships: () => this.#memberships.values() })
    this.#writer = new Writer({
      ...options,
      onRegistered: (startedMs) => this.#heartbeats.expect(startedMs),
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

  /** Whether this process keeps the registration. */
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
    // Thousands may come and go in the life of a process.
    if (membership.isAtRest) this.#memberships.delete(membership.id)
  }

  /** What the snapshot shows is what its reader acts on: in the moment of a return, not the newer one. */
  fence(client: QueryClient, { id, token }: Registration): Promise<void> {
    const { store, reader } = this.#options
    return store.fence(client, { id, token: reader.snapshot?.get(id)?.token ?? token })
  }

  leaseChanged(id: string, { token, signal }: Lease, state: 'granted' | 'ended'): void {
    const { report } = this.#options
    const error = signal.reason as LeaseMessage['error']
    const lost = error instanceof MembershipLostError
    report.publish('lease', { id, token, state, error })
    report.log(
      lost ? 'warn' : 'info',
      { id, token, ...(error === undefined ? {} : { err: error }) },
      `Lease ${lost ? `lost: ${error.reason}` : state}`,
    )
  }

  /** With the present snapshot: those to whom something happened, and those who wait for what they did. */
  reconcile({ ids, anew }: News): void {
    if (anew) for (const { state } of this.#memberships.values()) state.historyLost()
    if (ids === undefined) {
      this.#reconcileAll(this.#memberships.values())
      return
    }
    const named = [...ids].flatMap((id) => this.#memberships.get(id) ?? [])
    this.#reconcileAll(new Set([...named, ...this.#unseen]))
  }

  /** What was done cannot be seen, and waiting does not seem to cure it. */
  refused(error: MembershipError): void {
    for (const membership of this.#unseen) {
      if (membership.state.nextStep() === undefined) membership.failed(error)
    }
  }

  /** How long to wait at most between two attempts to reach the database. */
  get patienceMs(): number {
    return this.#heartbeats.patienceMs
  }

  /** The database is reached again: no backoff applies. */
  retry(): void {
    this.#heartbeats.retry()
    this.#writer.retry()
  }

  /** The connection was lost: the first statement on the next one is a heartbeat. */
  recover(): void {
    this.#heartbeats.beatNow()
    this.#writer.recover()
  }

  /** Ends all leases as if no heartbeat had got through; the next one that does renews them. */
  distrust(): void {
    for (const membership of this.#memberships.values()) membership.distrust()
  }

  /** Ends all leases, and deregisters everything in one statement, or gives up after `deadlineMs`. */
  async close(deadlineMs: number): Promise<void> {
    const memberships = [...this.#memberships.values()]
    this.#closed = true
    for (const membership of memberships) membership.close()
    const beaten = this.#heartbeats.stop()
    await this.#writer.close(memberships, deadlineMs, beaten)
    for (const membership of memberships) membership.closed()
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
