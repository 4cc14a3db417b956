/**
 * One membership: what its owner wants, what is believed to be in the database, and who waits.
 *
 *   wants in, no row            -> register    (floor: the last token known, so a retry finds its own row)
 *   has a row, wants out        -> deregister  (that row, by its token; its lease has ended already)
 *   has a row with other data   -> set data
 *
 * `nextStep` says which; `registrations.ts` does it for all memberships of a process at once, and
 * reports back. Nothing else is remembered: whatever goes wrong in between, the next step is derived
 * again. What a lost reply may have left behind shows up in a snapshot (`reconcile`) and is taken from
 * there: an unknown row is adopted and then deregistered, wrong data is sent again.
 *
 * A registration that was removed by others is lost: the lease ends with the reason that the log gives,
 * and, unless told to stay out, the membership registers again under the same id, with a higher token.
 * A lease that ran out in silence is renewed with the same token when the row turns out to be there.
 */
import { v7 as newId } from 'uuid'
import { abortedError, Waiting, type WaitOptions, within } from './waiting.js'
import type { Membership, MembershipOptions, QueryClient } from './cluster.js'
import { ClosedError, DeregisteredError, MembershipLostError, type LossReason } from './errors.js'
import { TimedLease, trustedUntil, type Lease } from './lease.js'
import { monotonicMs } from './clock.js'
import { storableData } from './member.js'
import { onLostOption } from './options.js'
import type { Snapshot } from './snapshot.js'
import type { Registration } from './store.js'

/** The process's side of a membership: where its steps are done. */
export interface Host {
  readonly ttlMs: number
  readonly closed: boolean
  lastError(): Error | undefined
  /** This membership has a next step. */
  wake(membership: OwnMembership): void
  fence(client: QueryClient, registration: Registration): Promise<void>
  leaseChanged(id: string, lease: Lease, state: 'granted' | 'ended'): void
}

export type Step = 'deregister' | 'register' | 'set data'

interface Row {
  readonly token: number
  /** Which of the values set here it carries; -1: another one. */
  version: number
  /** A refresh that began after its commit has ended. */
  shown: boolean
  /** Given up: to be deregistered, whatever is wanted afterwards. */
  leaving: boolean
}

/** How long an aborted register waits for its attempt under way, to undo it. */
const UNDO_MS = 1_000

export class OwnMembership implements Membership {
  readonly id = newId()
  readonly #host: Host
  readonly #onLost: 'register-again' | 'stay-out'
  readonly #registering = new Waiting<Lease>()
  readonly #trusting = new Waiting<Lease>()
  readonly #leaving = new Waiting<undefined>()
  readonly #saving = new Waiting<undefined>()
  #data: string
  #version = 0
  #wanted = false
  #row: Row | undefined
  #lease: TimedLease | undefined
  #floor = 0
  /** 'unknown': an attempt to register got no answer. */
  #attempt: 'none' | 'sent' | 'unknown' = 'none'
  /** Some attempt since the last that was answered may yet have left a row. */
  #uncertain = false
  /** What the present attempt registers was given up meanwhile. */
  #doomed = false
  /** This process's snapshot is known not to show it. */
  #outShown = true
  constructor(host: Host, { data = '', onLost }: MembershipOptions) {
    this.#host = host
    this.#data = storableData(data)
    this.#onLost = onLostOption(onLost)
  }

  get data(): string {
    return this.#data
  }

  get lease(): Lease | undefined {
    return this.#trusted()
  }

  async whenRegistered(options: WaitOptions = {}): Promise<Lease> {
    this.#refuse(options)
    const lease = this.#trusted()
    if (lease !== undefined) return lease
    const trusted = this.#trusting.wait(options, () => this.#host.lastError())
    this.#host.wake(this)
    return await trusted
  }

  async register(options: WaitOptions = {}): Promise<Lease> {
    this.#refuse(options)
    this.#wanted = true
    const lease = this.#trusted()
    if (lease !== undefined && this.#row?.shown === true) return lease
    const registered = this.#registering.wait(options, () => this.#host.lastError())
    this.#host.wake(this)
    try {
      return await registered
    } catch (error) {
      if (options.signal?.aborted === true) await this.#undo()
      throw error
    }
  }

  async deregister(options: WaitOptions = {}): Promise<void> {
    this.#refuse()
    this.#giveUp(new DeregisteredError('The membership was deregistered'))
    if (this.#isOut() && this.#outShown) {
      this.#refuse(options)
      return
    }
    this.#host.wake(this)
    await this.#leaving.wait(options, () => this.#host.lastError())
  }

  async setData(data: string, options: WaitOptions = {}): Promise<void> {
    storableData(data)
    this.#refuse()
    if (data !== this.#data) {
      this.#data = data
      this.#version += 1
    }
    if (!this.#wanted || (this.#row?.shown === true && this.#row.version === this.#version)) {
      this.#refuse(options)
      return
    }
    this.#host.wake(this)
    await this.#saving.wait(options, () => this.#host.lastError(), this.#version)
  }

  async fence(client: QueryClient): Promise<void> {
    await this.#host.fence(client, { id: this.id, token: this.#row?.token ?? this.#floor })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#host.closed) await this.deregister()
  }

  // ------------------------------------------------------------------- for registrations.ts

  nextStep(): Step | undefined {
    if (this.#row !== undefined) {
      if (this.#row.leaving || !this.#wanted) return 'deregister'
      return this.#row.version === this.#version ? undefined : 'set data'
    }
    return this.#wanted ? 'register' : undefined
  }

  /** The row that heartbeats keep, if any. */
  get kept(): Registration | undefined {
    return this.#row === undefined || this.#row.leaving ? undefined : { id: this.id, token: this.#row.token }
  }

  /** The row to be written to, whatever is wanted. */
  get row(): Registration | undefined {
    return this.#row === undefined ? undefined : { id: this.id, token: this.#row.token }
  }

  /** Nothing to do, and nobody waits. */
  get isAtRest(): boolean {
    return this.#isOut() && !this.#wanted && this.#trusting.size + this.#leaving.size === 0
  }

  get floor(): number {
    return this.#floor
  }

  get version(): number {
    return this.#version
  }

  registerSent(): void {
    this.#attempt = 'sent'
    this.#outShown = false
  }

  registerFailed(outcome: 'nothing happened' | 'unknown'): void {
    this.#uncertain ||= outcome === 'unknown'
    this.#attempt = this.#uncertain ? 'unknown' : 'none'
  }

  /** Carrying `version` of the data, by an attempt begun at `startedMs`. */
  registered(token: number, version: number, startedMs: number): void {
    this.#attempt = 'none'
    this.#uncertain = false
    this.#floor = Math.max(this.#floor, token)
    this.#row = { token, version, shown: false, leaving: this.#doomed || !this.#wanted }
    this.#doomed = false
    if (!this.#row.leaving) this.#trust(token, startedMs)
  }

  /** Somebody else has this id, in another cluster. */
  refused(): void {
    this.#attempt = 'none'
    this.#stayOut(
      new MembershipLostError('The id is registered in another cluster', { reason: 'superseded' }),
    )
  }

  dataSet(token: number, version: number): void {
    if (this.#row?.token === token) this.#row.version = version
  }

  deregistered(token: number): void {
    if (this.#row?.token === token) this.#row = undefined
  }

  /** A refresh has ended that began after all of the above, with this snapshot. */
  shown(snapshot: Snapshot): void {
    if (this.#attempt === 'unknown' && !this.#wanted) {
      this.reconcile(snapshot)
      this.#attempt = 'none'
      this.#uncertain = false
    }
    if (this.#row === undefined) {
      if (this.#attempt !== 'none') return
      this.#outShown = true
      this.#doomed = false
      this.#leaving.resolve(undefined)
      return
    }
    this.#row.shown = true
    if (this.#row.leaving) return
    // What was given up before this row is gone.
    this.#leaving.resolve(undefined)
    this.#saving.resolve(undefined, this.#row.version)
    const lease = this.#trusted()
    if (lease !== undefined) this.#registering.resolve(lease)
  }

  renewed(token: number, startedMs: number): void {
    if (this.#row?.token !== token || this.#row.leaving) return
    if (this.#trusted() !== undefined) this.#lease?.renew(startedMs)
    else this.#trust(token, startedMs)
  }

  /** The row is gone, and it was not we who removed it. */
  lost(token: number, reason: LossReason): void {
    if (this.#row?.token !== token) return
    const { leaving } = this.#row
    this.#row = undefined
    if (leaving) {
      this.#host.wake(this)
      return
    }
    const error = new MembershipLostError(`The registration was lost: ${reason}`, { reason })
    if (this.#onLost === 'stay-out') this.#stayOut(error)
    else {
      this.#endLease(error)
      this.#host.wake(this)
    }
  }

  /** What waiting cannot cure: those who wait are told. Without a row, nothing is tried again by itself. */
  failed(error: Error): void {
    this.#leaving.reject(error)
    this.#saving.reject(error)
    if (this.#row === undefined) this.#stayOut(error)
  }

  distrust(): void {
    this.#endLease(new MembershipLostError('Cut off', { reason: 'unreachable' }))
  }

  /** Compares with a new snapshot. True: a heartbeat should find out what became of the row. */
  reconcile(snapshot: Snapshot): boolean {
    const seen = snapshot.get(this.id)
    if (this.#attempt !== 'none' && this.#wanted) return false
    if (seen === undefined) return this.#row?.shown === true && !this.#row.leaving
    if (seen.token === this.#row?.token) {
      if (seen.data !== this.#data && this.#row.version === this.#version) {
        this.#row.version = -1
        this.#host.wake(this)
      }
    } else if (seen.token > (this.#row?.token ?? 0) && (this.#row !== undefined || !this.#wanted)) {
      // Left by an attempt whose answer was lost. Another registration of ours is not in sight any more.
      this.#floor = Math.max(this.#floor, seen.token)
      this.#row = { token: seen.token, version: -1, shown: true, leaving: true }
      this.#attempt = 'none'
      this.#endLease(
        new MembershipLostError('The registration was lost: superseded', { reason: 'superseded' }),
      )
      this.#host.wake(this)
    }
    return false
  }

  /** Ends the lease and all waits but those for having left. */
  close(): void {
    const error = new ClosedError('The cluster is closed')
    this.#trusting.reject(error)
    this.#saving.reject(error)
    this.#giveUp(error)
  }

  /** Nothing more will be tried. */
  closed(): void {
    if (this.#row === undefined) this.#leaving.resolve(undefined)
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
    lease.signal.addEventListener('abort', () => this.#host.leaseChanged(this.id, lease, 'ended'), {
      once: true,
    })
    this.#host.leaseChanged(this.id, lease, 'granted')
    this.#trusting.resolve(lease)
    if (this.#row?.shown === true) this.#registering.resolve(lease)
  }

  #endLease(reason: Error): void {
    const lease = this.#lease
    this.#lease = undefined
    if (lease?.trusted === true) lease.end(reason)
  }

  /** The lease ends before the row goes. */
  #giveUp(reason: Error): void {
    this.#wanted = false
    this.#doomed = this.#attempt !== 'none'
    if (this.#row !== undefined) this.#row.leaving = true
    this.#endLease(reason)
    this.#registering.reject(reason)
    this.#saving.resolve(undefined)
  }

  #stayOut(reason: Error): void {
    this.#wanted = false
    this.#endLease(reason)
    this.#registering.reject(reason)
    this.#saving.resolve(undefined)
    this.#host.wake(this)
  }

  #isOut(): boolean {
    return this.#row === undefined && this.#attempt === 'none'
  }

  /** After an abort nothing stays registered, unless others still want it. */
  async #undo(): Promise<void> {
    if (this.#registering.size > 0 || this.#row?.shown === true || this.#host.closed) return
    this.#giveUp(new DeregisteredError('The registration was aborted'))
    if (this.#isOut()) return
    this.#host.wake(this)
    await within(UNDO_MS, this.#leaving.wait(), 'undoing').catch(() => undefined)
  }
}
