/**
 * One membership: its lease, and the calls that wait. belief.ts says what its next step is. writer.ts does the steps
 * of all memberships of a process together, and reports back here.
 *
 * A registration that others removed is lost: the lease ends with the reason that the log gives. Then the membership
 * registers again under the same id, with a higher token, unless it is to stay out. If a lease ended because no
 * heartbeat got through, but the row is still there, the next lease has the same token. When the database refuses, a
 * membership gives up only if it was never registered.
 */
import { v7 as newId } from 'uuid'
import { ClosedError, DeregisteredError, type LossReason, MembershipLostError } from '../../api/errors.js'
import type { Lease } from '../../api/lease.js'
import type { MembershipOptions } from '../../api/membership.js'
import type { QueryClient } from '../../api/query-client.js'
import type { Registration } from '../../api/registration.js'
import type { Snapshot } from '../../api/snapshot.js'
import type { WaitOptions } from '../../api/wait-options.js'
import { monotonicMs } from '../../kit/clock.js'
import { abortedError, Waiting, within } from '../../kit/waiting.js'
import type { Position } from '../store.js'
import { Belief } from './belief.js'
import { TimedLease, trustedUntil } from './timed-lease.js'

/** What a membership needs of its process, which does the steps. */
export interface Host {
  readonly ttlMs: number
  readonly closed: boolean
  lastError(): Error | undefined
  /** This membership has a next step. */
  wake(membership: OwnMembership): void
  /** A wait has ended, so the membership may be at rest. */
  rest(membership: OwnMembership): void
  fence(client: QueryClient, registration: Registration): Promise<void>
  leaseChanged(id: string, lease: Lease, state: 'granted' | 'ended'): void
}

/** How long an aborted `register` waits until what it has done is undone. */
const UNDO_MS = 1_000
/** The database refuses an attempt to register that is older than this: register(), in the migrations. */
const LATE_MS = 10_000

export class OwnMembership {
  readonly id = newId()
  readonly #host: Host
  readonly #onLost: 'register-again' | 'stay-out'
  readonly #registering = new Waiting<Lease>()
  readonly #trusting = new Waiting<Lease>()
  readonly #leaving = new Waiting<undefined>()
  readonly #saving = new Waiting<undefined>()
  readonly state = new Belief()
  #data: string
  #lease: TimedLease | undefined
  #lateUntilMs = -Infinity
  /** `register` has told its owner that it is registered, and the owner has not given it up since. */
  #isRegistered = false

  constructor(host: Host, { data, onLost }: Required<MembershipOptions>) {
    this.#host = host
    this.#data = data
    this.#onLost = onLost
  }

  get data(): string {
    return this.#data
  }

  get lease(): Lease | undefined {
    return this.#trusted()
  }

  async whenRegistered(options: WaitOptions): Promise<Lease> {
    this.#refuse(options)
    const lease = this.#trusted()
    if (lease !== undefined) return lease
    const trusted = this.#trusting.wait(options, () => this.#host.lastError())
    this.#host.wake(this)
    try {
      return await trusted
    } finally {
      this.#host.rest(this)
    }
  }

  async register(options: WaitOptions): Promise<Lease> {
    this.#refuse(options)
    this.state.want()
    const lease = this.#trusted()
    if (lease !== undefined && this.state.isShown) return lease
    const registered = this.#registering.wait(options, () => this.#host.lastError())
    this.#host.wake(this)
    try {
      return await registered
    } catch (error) {
      if (options.signal?.aborted === true) await this.#undo()
      throw error
    }
  }

  async deregister(options: WaitOptions): Promise<void> {
    this.#refuse()
    this.#giveUp(new DeregisteredError('The membership was deregistered'))
    if (this.state.isOutAndShown) {
      this.#refuse(options)
      return
    }
    this.#host.wake(this)
    await this.#leaving.wait(options, () => this.#host.lastError())
  }

  async setData(data: string, options: WaitOptions): Promise<void> {
    this.#refuse()
    if (data !== this.#data) {
      this.#data = data
      this.state.dataChanged()
    }
    const { wanted, version, shownVersion } = this.state
    if (!wanted || shownVersion === version) {
      this.#refuse(options)
      return
    }
    this.#host.wake(this)
    await this.#saving.wait(options, () => this.#host.lastError(), version)
  }

  fence(client: QueryClient): Promise<void> {
    return this.#host.fence(client, { id: this.id, token: this.state.token ?? this.state.floor })
  }

  async dispose(): Promise<void> {
    if (!this.#host.closed) await this.deregister({})
  }

  // ------------------------------------------------- for writer.ts and heartbeats.ts

  /** There is nothing to do, no call waits, and no late attempt can still register it. */
  get isAtRest(): boolean {
    const { isOut, wanted } = this.state
    const waits = this.#trusting.size + this.#leaving.size
    return isOut && !wanted && waits === 0 && !this.isLate
  }

  /** An attempt that was not answered may still take effect. */
  get isLate(): boolean {
    return monotonicMs() < this.#lateUntilMs
  }

  /** An attempt begun at `startedMs` registered it with `version` of the data. A snapshot shows it from `at` on. */
  registered(token: number, version: number, startedMs: number, at: Position): void {
    this.state.registered(token, version, at)
    this.renewed(token, startedMs)
  }

  /** Nobody knows whether it is registered, nor whether it will be in a moment. */
  unanswered(): void {
    this.#lateUntilMs = monotonicMs() + LATE_MS
    this.state.registerFailed('unanswered')
  }

  /** The id is registered in another cluster. */
  refused(): void {
    this.state.registerFailed('nothing happened')
    this.#stayOut(
      new MembershipLostError('The id is registered in another cluster', { reason: 'superseded' }),
    )
  }

  renewed(token: number, startedMs: number): void {
    if (this.state.keptToken !== token) return
    if (this.#trusted()?.token === token) this.#lease?.renew(startedMs)
    else this.#trust(token, startedMs)
  }

  /** Others removed the row. */
  lost(token: number, reason: LossReason, at: Position): void {
    if (this.state.lost(token, at)) {
      const error = new MembershipLostError(`The registration was lost: ${reason}`, { reason })
      if (this.#onLost === 'stay-out') this.#stayOut(error)
      else this.#endLease(error)
    }
    this.#host.wake(this)
  }

  /**
   * The calls that wait fail, because waiting does not seem to cure this error. If register() never resolved, the
   * membership stays out, and nothing of it stays registered. Otherwise it goes on trying, since the error may pass.
   */
  failed(error: Error): void {
    this.#leaving.reject(error)
    this.#saving.reject(error)
    this.#registering.reject(error)
    if (this.state.wanted && !this.#isRegistered) this.#stayOut(error)
  }

  distrust(): void {
    this.#endLease(new MembershipLostError('The cluster is cut off', { reason: 'unreachable' }))
  }

  /**
   * Compares with a snapshot that is at the position `state.at` or after it, and tells the calls that wait. Returns
   * true if a heartbeat should find out what became of the row.
   */
  reconcile(snapshot: Snapshot): boolean {
    const found = this.state.compare(snapshot.get(this.id), this.#data)
    if (found === 'superseded') {
      this.#endLease(
        new MembershipLostError('The registration was lost: superseded', { reason: 'superseded' }),
      )
    }
    if (found === 'superseded' || found === 'changed') this.#host.wake(this)
    this.#tellShown()
    return found === 'missing'
  }

  /** This snapshot is of a refresh that began after the end of this attempt. */
  lookedFor(snapshot: Snapshot, attempt: number): void {
    this.state.lookedFor(snapshot.get(this.id), attempt)
    if (this.state.nextStep() !== undefined) this.#host.wake(this)
    this.#tellShown()
  }

  /** Ends the lease, and all waits except those of `deregister`. */
  startClosing(): void {
    const error = new ClosedError('The cluster is closed')
    this.#trusting.reject(error)
    this.#saving.reject(error)
    this.#giveUp(error)
  }

  /** Nothing more will be tried: ends the waits of `deregister`. */
  finishClosing(): void {
    if (this.state.token === undefined) this.#leaving.resolve(undefined)
    else this.#leaving.reject(new ClosedError('The cluster was closed first'))
  }

  // -----------------------------------------------------------------------------------------

  #refuse({ signal }: WaitOptions = {}): void {
    if (this.#host.closed) throw new ClosedError('The cluster is closed')
    if (signal?.aborted === true) throw abortedError(signal, this.#host.lastError())
  }

  #trusted(): TimedLease | undefined {
    return this.#lease?.trusted === true ? this.#lease : undefined
  }

  #trust(token: number, startedMs: number): void {
    if (trustedUntil(startedMs, this.#host.ttlMs) <= monotonicMs()) return
    const lease = new TimedLease(token, this.#host.ttlMs, startedMs)
    this.#lease = lease
    const onEnd = (): void => this.#host.leaseChanged(this.id, lease, 'ended')
    lease.signal.addEventListener('abort', onEnd, { once: true })
    this.#host.leaseChanged(this.id, lease, 'granted')
    this.#trusting.resolve(lease)
    this.#tellRegistered()
  }

  #tellShown(): void {
    const { isOutAndShown, isShown, shownVersion } = this.state
    // If a later registration is shown, the one that was given up before is gone.
    if (isOutAndShown || isShown) this.#leaving.resolve(undefined)
    if (!isShown) return
    if (shownVersion !== undefined) this.#saving.resolve(undefined, shownVersion)
    this.#tellRegistered()
  }

  #tellRegistered(): void {
    const lease = this.#trusted()
    if (lease === undefined || !this.state.isShown) return
    this.#isRegistered = true
    this.#registering.resolve(lease)
  }

  #endLease(reason: Error): void {
    const lease = this.#lease
    this.#lease = undefined
    if (lease?.trusted === true) lease.end(reason)
  }

  /** The lease ends before the row is deleted. */
  #giveUp(reason: Error): void {
    this.state.giveUp()
    this.#isRegistered = false
    this.#endLease(reason)
    this.#registering.reject(reason)
    this.#saving.resolve(undefined)
  }

  #stayOut(reason: Error): void {
    this.#giveUp(reason)
    this.#host.wake(this)
  }

  /** After an abort nothing stays registered, unless another call of `register` still waits. */
  async #undo(): Promise<void> {
    if (this.#registering.size > 0 || this.state.isShown || this.#host.closed) return
    this.#giveUp(new DeregisteredError('The registration was aborted'))
    if (this.state.isOut) return
    this.#host.wake(this)
    await within(UNDO_MS, this.#leaving.wait(), 'undoing').catch(() => undefined)
  }
}
