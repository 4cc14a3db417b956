/**
 * All memberships of this process in one cluster, and the loop that writes for them.
 *
 * It does the next steps of all that have one (see membership.ts), each kind in one statement. The answer tells
 * what has changed, and at which position of the cluster it can be seen: who waits for a step is told when this
 * process's snapshot is there. An answer that was lost leaves the step to be done again, which finds its own
 * doing.
 */
import { Waiting, within } from '../../kit/waiting.js'
import { monotonicMs } from '../../kit/clock.js'
import type { LeaseMessage } from '../../api/diagnostics.js'
import type { MembershipOptions } from '../../api/membership.js'
import { failureOf, isLasting } from '../store-error.js'
import { MembershipLostError, SchemaError, type MembershipError } from '../../api/errors.js'
import { Heartbeats } from './heartbeats.js'
import type { Lease } from '../../api/lease.js'
import { Loop } from '../../kit/loop.js'
import type { Step } from './belief.js'
import { OwnMembership, type Host } from './own-membership.js'
import type { Timing } from '../options.js'
import type { QueryClient } from '../../api/query-client.js'
import type { CachedReader, News } from '../reader.js'
import type { Report } from '../report.js'
import type { Snapshot } from '../../api/snapshot.js'
import type { Delta, Registration, Store } from '../store.js'

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

/** One statement carries at most this many rows, and about this much data. */
const MAX_BATCH = 1_000
const MAX_BATCH_CHARACTERS = 4_000_000
/** When somebody holds a row locked. */
const AGAIN_MS = 50

export class Registrations implements Host {
  readonly #options: RegistrationsOptions
  readonly #memberships = new Map<string, OwnMembership>()
  readonly #unfinished = new Set<OwnMembership>()
  /** What was done for them, or may have been, is not in the snapshot yet. */
  readonly #unseen = new Set<OwnMembership>()
  readonly #writer: Loop
  readonly #heartbeats: Heartbeats
  readonly #drained = new Waiting<undefined>()
  #closed = false

  constructor(options: RegistrationsOptions) {
    this.#options = options
    this.#writer = new Loop({
      run: () => this.#write(),
      onError: (error) => this.#failed(error),
      maxBackoffMs: () => 1_000,
    })
    this.#heartbeats = new Heartbeats({ ...options, memberships: () => this.#memberships.values() })
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
    this.#unfinished.add(membership)
    this.#options.onUse()
    this.#writer.wakeNow()
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
    tell(
      [...this.#unseen].filter(({ state }) => state.nextStep() === undefined),
      error,
    )
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
    if (this.#unfinished.size > 0) this.#writer.wakeNow()
  }

  /** Ends all leases as if no heartbeat had got through; the next one that does renews them. */
  distrust(): void {
    for (const membership of this.#memberships.values()) membership.distrust()
  }

  /** Ends all leases, and deregisters everything in one statement, or gives up after `deadlineMs`. */
  async close(deadlineMs: number): Promise<void> {
    const memberships = [...this.#memberships.values()]
    this.#closed = true
    for (const membership of memberships) {
      membership.close()
      this.#unfinished.add(membership)
    }
    const beaten = this.#heartbeats.stop()
    if (this.#unfinished.size > 0) {
      this.#writer.wakeNow()
      await within(deadlineMs, Promise.all([beaten, this.#drained.wait()]), 'deregistering').catch(
        () => undefined,
      )
    }
    void this.#writer.stop()
    for (const membership of memberships) membership.closed()
  }

  async #write(): Promise<number> {
    const { report } = this.#options
    const batch = [...this.#unfinished]
    if (batch.length === 0) return Infinity
    const refusals = [
      ...(await this.#each(batch, 'deregister', (part) => this.#leave(part))),
      ...(await this.#each(batch, 'register', (part) => this.#register(part))),
      ...(await this.#each(batch, 'set data', (part) => this.#setData(part))),
    ]
    for (const membership of batch) {
      if (membership.state.nextStep() === undefined) this.#unfinished.delete(membership)
    }
    report.succeeded('write')
    if (this.#unfinished.size === 0) report.succeeded('deregister')
    if (this.#closed) {
      if (this.#unfinished.size === 0) this.#drained.resolve(undefined)
    } else {
      this.#reconcileAll(batch)
      this.#lookFor(batch)
    }
    const [refusal] = refusals
    if (refusal !== undefined) throw refusal
    return this.#unfinished.size > 0 ? AGAIN_MS : Infinity
  }

  /** What the database refuses holds up nobody but those for whom it was asked; they are told. Returns why. */
  async #each(
    batch: readonly OwnMembership[],
    step: Step,
    take: (part: readonly OwnMembership[]) => Promise<void>,
  ): Promise<Error[]> {
    const refusals: Error[] = []
    for (const part of parts(batch.filter((membership) => membership.state.nextStep() === step))) {
      try {
        await take(part)
      } catch (error) {
        if (!(error instanceof SchemaError)) throw error
        tell(part, error)
        refusals.push(error)
        // There is no time to wait until it passes.
        if (this.#closed && step === 'deregister') for (const left of part) this.#unfinished.delete(left)
      }
    }
    return refusals
  }

  /** Where nobody knows what an attempt has left behind, and nobody wants it any more, a refresh tells. */
  #lookFor(batch: readonly OwnMembership[]): void {
    const { reader } = this.#options
    const attempts = batch.flatMap((membership) => {
      const { doubtfulAttempt } = membership.state
      return doubtfulAttempt === undefined ? [] : [{ membership, doubtfulAttempt }]
    })
    if (attempts.length === 0) return
    const look = (): void => {
      const { snapshot } = reader
      if (snapshot === undefined) return
      for (const { membership, doubtfulAttempt } of attempts) membership.lookedFor(snapshot, doubtfulAttempt)
    }
    void reader.refreshed().then(look, (error: unknown) => tell(batch, error))
  }

  /** What an answer tells of the cluster; those of the batch may be shown by now. */
  #wrote(batch: readonly OwnMembership[], delta: Delta): void {
    const { reader, onAnswer } = this.#options
    onAnswer(true)
    if (this.#closed) return
    reader.wrote(delta)
    this.#reconcileAll(batch)
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

  async #leave(batch: readonly OwnMembership[]): Promise<void> {
    const { store, report } = this.#options
    const rows = batch.flatMap(({ id, state: { token } }) => (token === undefined ? [] : [{ id, token }]))
    const { pending, obstacles, delta } = await store.deregister(rows)
    for (const obstacle of obstacles) report.failed('deregister', new Error(obstacle))
    const left = new Set(pending)
    for (const { id, token } of rows) {
      if (!left.has(id)) this.#memberships.get(id)?.state.deregistered(token, delta.to)
    }
    this.#wrote(batch, delta)
  }

  async #register(batch: readonly OwnMembership[]): Promise<void> {
    const startedMs = monotonicMs()
    const wanted = batch.map(({ id, data, state: { floor, version } }) => ({ id, data, floor, version }))
    for (const membership of batch) membership.state.registerSent()
    try {
      const { tokens, delta } = await this.#options.store.register(wanted)
      for (const { id, version } of wanted) {
        const membership = this.#memberships.get(id)
        const token = tokens.get(id)
        if (token !== undefined) membership?.registered(token, version, startedMs, delta.to)
        else if (tokens.has(id)) membership?.refused()
        else membership?.state.registerFailed('nothing happened')
      }
      this.#heartbeats.expect(startedMs)
      this.#wrote(batch, delta)
    } catch (error) {
      for (const membership of batch) {
        if (failureOf(error).outcome !== 'nobody knows') membership.state.registerFailed('nothing happened')
        else {
          membership.unanswered()
          this.#unseen.add(membership)
        }
      }
      throw error
    }
  }

  async #setData(batch: readonly OwnMembership[]): Promise<void> {
    const wanted = batch.flatMap(({ id, data, state: { token, version } }) =>
      token === undefined ? [] : [{ id, token, data, version }],
    )
    const { pending, delta } = await this.#options.store.setData(wanted)
    const left = new Set(pending)
    for (const { id, token, version } of wanted) {
      if (!left.has(id)) this.#memberships.get(id)?.state.dataSet(token, version, delta.to)
    }
    this.#wrote(batch, delta)
  }

  #failed(thrown: Error): undefined {
    const { report, onAnswer } = this.#options
    const { error, answered } = failureOf(thrown)
    if (!answered) onAnswer(false)
    report.failed('write', error)
    // A SchemaError was told to those whose statement was refused.
    if (!isLasting(error) || error instanceof SchemaError) return
    tell(this.#unfinished, error)
    this.#drained.resolve(undefined)
  }
}

/** Tells those who wait what waiting does not cure. */
function tell(memberships: Iterable<OwnMembership>, error: unknown): void {
  if (!isLasting(error)) return
  for (const membership of memberships) membership.failed(error)
}

/** In parts that one statement can carry. */
function parts(memberships: readonly OwnMembership[]): OwnMembership[][] {
  const all: OwnMembership[][] = []
  let part: OwnMembership[] = []
  let characters = 0
  for (const membership of memberships) {
    characters += membership.data.length
    if (part.length > 0 && (part.length >= MAX_BATCH || characters > MAX_BATCH_CHARACTERS)) {
      all.push(part)
      part = []
      characters = membership.data.length
    }
    part.push(membership)
  }
  return part.length === 0 ? all : [...all, part]
}
