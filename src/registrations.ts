/**
 * All memberships of this process in one cluster: one loop that writes, one that heartbeats.
 *
 * The writer does the next steps of all memberships that have one (see membership.ts), each kind in one
 * statement, and then a refresh; who waited for the steps is told after it. An answer that was lost
 * leaves the step to be done again, which finds its own doing.
 *
 * A heartbeat renews all rows in one statement, and is counted from its start. What it finds missing is
 * lost; what is locked by somebody is tried again soon. It also tells the reader where the cluster is,
 * and the sweeper when nobody sweeps.
 */
import { Waiting, within } from './waiting.js'
import { monotonicMs } from './clock.js'
import type { MembershipOptions, QueryClient } from './cluster.js'
import { permanentError, wasRefused } from './database-errors.js'
import { MembershipLostError } from './errors.js'
import type { Lease } from './lease.js'
import { Loop } from './loop.js'
import { OwnMembership, type Host } from './membership.js'
import type { Timing } from './options.js'
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
/** After an error that waiting does not cure; a new call tries at once. */
const PERMANENT_MS = 5_000

export class Registrations implements Host {
  readonly #options: RegistrationsOptions
  readonly #memberships = new Map<string, OwnMembership>()
  readonly #unfinished = new Set<OwnMembership>()
  readonly #writer: Loop
  readonly #heart: Loop
  readonly #drained = new Waiting<undefined>()
  #beatDueMs = Infinity
  #closed = false

  constructor(options: RegistrationsOptions) {
    this.#options = options
    const { ttlMs, crashGraceMs } = options.timing
    this.#writer = new Loop({
      run: () => this.#write(),
      onError: (error) => this.#writeFailed(error),
      maxBackoffMs: () => 1_000,
    })
    this.#heart = new Loop({
      run: () => this.#beat(),
      onError: (error) => {
        this.#failed('heartbeat', error)
        return undefined
      },
      maxBackoffMs: () => Math.min(1_000, ttlMs / 10, crashGraceMs === false ? Infinity : crashGraceMs / 4),
    })
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
    return this.#memberships.get(id)?.kept?.token === token
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

  fence(client: QueryClient, registration: Registration): Promise<void> {
    return this.#options.store.fence(client, registration)
  }

  leaseChanged(id: string, { token, signal }: Lease, state: 'granted' | 'ended'): void {
    const { report } = this.#options
    const error: unknown = signal.reason
    const lost = error instanceof MembershipLostError
    report.publish('lease', { id, token, state, error })
    report.log(
      lost ? 'warn' : 'info',
      { id, token, error },
      `Lease ${lost ? `lost: ${error.reason}` : state}`,
    )
  }

  reconcile(snapshot: Snapshot): void {
    for (const membership of this.#memberships.values()) {
      if (membership.reconcile(snapshot)) this.#beatBy(-Infinity)
    }
  }

  /** The connection was lost, or is back: the first statement on the next one is a heartbeat. */
  recover(): void {
    this.#beatBy(-Infinity)
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
    const beaten = this.#heart.stop()
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
    const { reader } = this.#options
    const batch = [...this.#unfinished]
    if (batch.length === 0) return Infinity
    await this.#leave(batch)
    for (const part of parts(batch.filter((membership) => membership.nextStep() === 'register'))) {
      await this.#register(part)
    }
    for (const part of parts(batch.filter((membership) => membership.nextStep() === 'set data'))) {
      await this.#setData(part)
    }
    for (const membership of batch) {
      if (membership.nextStep() === undefined) this.#unfinished.delete(membership)
    }
    if (this.#closed) {
      if (this.#unfinished.size === 0) this.#drained.resolve(undefined)
    } else {
      void reader.refreshed().then(
        () => this.#shown(batch),
        () => undefined,
      )
    }
    return this.#unfinished.size > 0 ? 0 : Infinity
  }

  #shown(batch: readonly OwnMembership[]): void {
    const { snapshot } = this.#options.reader
    if (snapshot === undefined) return
    for (const membership of batch) {
      membership.shown(snapshot)
      // Thousands may come and go in the life of a process.
      if (membership.isAtRest) this.#memberships.delete(membership.id)
    }
  }

  async #leave(batch: readonly OwnMembership[]): Promise<void> {
    const leaving = batch.filter((membership) => membership.nextStep() === 'deregister')
    const rows = leaving.flatMap(({ row }) => row ?? [])
    if (rows.length === 0) return
    await this.#options.store.deregister(rows)
    for (const { id, token } of rows) this.#memberships.get(id)?.deregistered(token)
  }

  async #register(batch: readonly OwnMembership[]): Promise<void> {
    const startedMs = monotonicMs()
    const wanted = batch.map(({ id, data, floor }) => ({ id, data, floor }))
    const versions = batch.map(({ version }) => version)
    for (const membership of batch) membership.registerSent()
    try {
      const tokens = await this.#options.store.register(wanted)
      batch.forEach((membership, n) => {
        const token = tokens.get(membership.id)
        if (token === undefined) membership.refused()
        else membership.registered(token, versions[n] ?? -1, startedMs)
      })
      this.#beatBy(startedMs + periodMs(this.#options.timing.heartbeatMs))
    } catch (error) {
      for (const membership of batch) membership.registerFailed(wasRefused(error))
      throw error
    }
  }

  async #setData(batch: readonly OwnMembership[]): Promise<void> {
    const wanted = batch.flatMap(({ row, data, version }) =>
      row === undefined ? [] : [{ ...row, data, version }],
    )
    await this.#options.store.setData(wanted)
    for (const { id, token, version } of wanted) this.#memberships.get(id)?.dataSet(token, version)
  }

  async #beat(): Promise<number> {
    const { store, reader, timing, onAnswer, onSweepOverdue } = this.#options
    const kept = [...this.#memberships.values()].flatMap((membership) => membership.kept ?? [])
    const startedMs = monotonicMs()
    if (kept.length === 0) this.#beatDueMs = Infinity
    if (startedMs < this.#beatDueMs) return this.#beatDueMs - startedMs
    const { locked, missing, sweepOverdue, ...position } = await store.heartbeat(kept)
    onAnswer(true)
    const held = new Set(locked)
    for (const { id, token } of kept) {
      const membership = this.#memberships.get(id)
      const reason = missing.get(id)
      if (reason !== undefined) membership?.lost(token, reason)
      else if (!held.has(id)) membership?.renewed(token, startedMs)
    }
    this.#options.report.publish('heartbeat', {
      registrations: kept.length,
      durationMs: monotonicMs() - startedMs,
    })
    reader.confirm(position, startedMs)
    if (sweepOverdue) onSweepOverdue()
    this.#beatDueMs = startedMs + (held.size > 0 ? timing.ttlMs / 20 : periodMs(timing.heartbeatMs))
    return this.#beatDueMs - monotonicMs()
  }

  #beatBy(dueMs: number): void {
    if (dueMs >= this.#beatDueMs) return
    this.#beatDueMs = dueMs
    this.#heart.wakeNow()
  }

  #writeFailed(error: Error): number | undefined {
    const permanent = permanentError(error)
    this.#failed('write', permanent ?? error)
    if (permanent === undefined) return undefined
    for (const membership of this.#unfinished) if (membership.row === undefined) membership.failed(permanent)
    this.#drained.resolve(undefined)
    return PERMANENT_MS
  }

  #failed(doing: string, error: Error): void {
    // Where the database refused, it answered: no sign of an outage.
    if (!wasRefused(error)) this.#options.onAnswer(false)
    this.#options.report.failed(doing, error)
  }
}

/** A little early, so that a heartbeat comes before the poll that it spares; and not all processes at once. */
function periodMs(heartbeatMs: number): number {
  return heartbeatMs * (0.9 + Math.random() * 0.06)
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
