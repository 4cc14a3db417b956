/**
 * All memberships of this process in one cluster, and the loop that writes for them.
 *
 * It does the next steps of all that have one (see membership.ts), each kind in one statement, and then
 * a refresh; who waited for the steps is told after it. An answer that was lost leaves the step to be
 * done again, which finds its own doing.
 */
import { Waiting, within } from './waiting.js'
import { monotonicMs } from './clock.js'
import type { MembershipOptions } from './cluster.js'
import { permanentError, wasRefused } from './database-errors.js'
import { MembershipLostError, SchemaError } from './errors.js'
import { Heartbeats } from './heartbeats.js'
import type { Lease } from './lease.js'
import { Loop } from './loop.js'
import type { Known, Step } from './membership-state.js'
import { OwnMembership, type Host } from './membership.js'
import type { Timing } from './options.js'
import type { QueryClient } from './query-client.js'
import type { CachedReader } from './reader.js'
import type { Report } from './report.js'
import type { Snapshot } from './snapshot.js'
import type { Registration, Store } from './store.js'

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

  create(options: MembershipOptions): OwnMembership {
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

  /** What the snapshot shows is what its reader acts on: in the moment of a return, not the newer one. */
  fence(client: QueryClient, { id, token }: Registration): Promise<void> {
    const { store, reader } = this.#options
    return store.fence(client, { id, token: reader.snapshot?.get(id)?.token ?? token })
  }

  leaseChanged(id: string, { token, signal }: Lease, state: 'granted' | 'ended'): void {
    const { report } = this.#options
    const error: unknown = signal.reason
    const lost = error instanceof MembershipLostError
    report.publish('lease', { id, token, state, error })
    report.log(
      lost ? 'warn' : 'info',
      { id, token, ...(error === undefined ? {} : { err: error }) },
      `Lease ${lost ? `lost: ${error.reason}` : state}`,
    )
  }

  reconcile(snapshot: Snapshot): void {
    for (const membership of this.#memberships.values()) this.#reconcile(membership, snapshot)
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
    const { reader, report } = this.#options
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
      const known = new Map(batch.map((membership) => [membership, membership.state.known]))
      void reader.refreshed().then(
        () => this.#shown(known),
        (error: unknown) => tell(batch, permanentError(error)),
      )
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
        const permanent = permanentError(error)
        if (!(permanent instanceof SchemaError)) throw error
        tell(part, permanent)
        refusals.push(error as Error)
        // There is no time to wait until it passes.
        if (this.#closed && step === 'deregister') for (const left of part) this.#unfinished.delete(left)
      }
    }
    return refusals
  }

  /** A refresh has ended that began when this much was known; what is newer is for the next one to show. */
  #shown(all: ReadonlyMap<OwnMembership, Known>): void {
    const { snapshot } = this.#options.reader
    if (snapshot === undefined) return
    for (const [membership, known] of all) {
      if (!membership.shown(snapshot, known)) continue
      // What a lost answer has left behind may turn up only here.
      if (membership.state.nextStep() !== undefined && !this.#unfinished.has(membership))
        this.wake(membership)
      this.#reconcile(membership, snapshot)
    }
  }

  #reconcile(membership: OwnMembership, snapshot: Snapshot): void {
    if (membership.reconcile(snapshot)) this.#heartbeats.beatNow()
    // Thousands may come and go in the life of a process.
    if (membership.isAtRest) this.#memberships.delete(membership.id)
  }

  async #leave(batch: readonly OwnMembership[]): Promise<void> {
    const { store, report } = this.#options
    const rows = batch.flatMap(({ id, state: { token } }) => (token === undefined ? [] : [{ id, token }]))
    const { pending, obstacles } = await store.deregister(rows)
    for (const obstacle of obstacles) report.failed('deregister', new Error(obstacle))
    const left = new Set(pending)
    for (const { id, token } of rows) if (!left.has(id)) this.#memberships.get(id)?.state.deregistered(token)
  }

  async #register(batch: readonly OwnMembership[]): Promise<void> {
    const startedMs = monotonicMs()
    const wanted = batch.map(({ id, data, state: { floor, version } }) => ({ id, data, floor, version }))
    for (const membership of batch) membership.state.registerSent()
    try {
      const tokens = await this.#options.store.register(wanted)
      for (const { id, version } of wanted) {
        const membership = this.#memberships.get(id)
        const token = tokens.get(id)
        if (token !== undefined) membership?.registered(token, version, startedMs)
        else if (tokens.has(id)) membership?.refused()
        else membership?.state.registerFailed('nothing happened')
      }
      this.#heartbeats.expect(startedMs)
    } catch (error) {
      for (const membership of batch) {
        if (wasRefused(error)) membership.state.registerFailed('nothing happened')
        else membership.unanswered()
      }
      throw error
    }
  }

  async #setData(batch: readonly OwnMembership[]): Promise<void> {
    const wanted = batch.flatMap(({ id, data, state: { token, version } }) =>
      token === undefined ? [] : [{ id, token, data, version }],
    )
    const pending = new Set(await this.#options.store.setData(wanted))
    for (const { id, token, version } of wanted) {
      if (!pending.has(id)) this.#memberships.get(id)?.state.dataSet(token, version)
    }
  }

  #failed(error: Error): undefined {
    const { report, onAnswer } = this.#options
    const permanent = permanentError(error)
    // Where the database refused, it answered: no sign of an outage.
    if (!wasRefused(error)) onAnswer(false)
    report.failed('write', permanent ?? error)
    // Who was refused has been told.
    if (permanent === undefined || permanent instanceof SchemaError) return
    tell(this.#unfinished, permanent)
    this.#drained.resolve(undefined)
  }
}

/** Those who wait, of what waiting does not seem to cure. */
function tell(memberships: Iterable<OwnMembership>, permanent: Error | undefined): void {
  if (permanent === undefined) return
  for (const membership of memberships) membership.failed(permanent)
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
