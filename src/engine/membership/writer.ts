/**
 * The loop that writes for all memberships of this process in one cluster.
 *
 * It does the next step of each membership that has one (belief.ts): all steps of one kind go in one statement. The
 * answer tells what has changed, and at which position of the cluster a snapshot shows it. If an answer is lost, the
 * step is done again: the second attempt finds what the first one did.
 */
import { SchemaError } from '../../api/errors.js'
import { monotonicMs } from '../../kit/clock.js'
import { Loop } from '../../kit/loop.js'
import { Waiting, within } from '../../kit/waiting.js'
import type { Timing } from '../options.js'
import type { CachedReader } from '../reader.js'
import type { Report } from '../report.js'
import type { Delta, Store } from '../store.js'
import { failureOf, isLasting } from '../store-error.js'
import type { Step } from './belief.js'
import { Evictions } from './evictions.js'
import type { OwnMembership } from './own-membership.js'

export interface WriterOptions {
  readonly store: Store
  readonly reader: CachedReader
  readonly report: Report
  readonly timing: Pick<Timing, 'heartbeatMs'>
  readonly onAnswer: (answered: boolean) => void
  /** An attempt begun at `startedMs` has registered memberships. */
  readonly onRegistered: (startedMs: number) => void
  /** Nobody knows whether this membership is registered. */
  readonly onUnanswered: (membership: OwnMembership) => void
  /** The steps of these are answered, and the snapshot may show them already. */
  readonly onAnswered: (batch: readonly OwnMembership[]) => void
}

/** One statement carries at most this many rows, and about this much data. */
const MAX_BATCH = 1_000
const MAX_BATCH_CHARACTERS = 4_000_000
/** How long to wait when somebody has locked a row. */
const AGAIN_MS = 50
const MAX_BACKOFF_MS = 1_000

export class Writer {
  readonly #options: WriterOptions
  /** The memberships that have a next step. */
  readonly #unfinished = new Set<OwnMembership>()
  readonly #evictions: Evictions
  readonly #loop: Loop
  readonly #drained = new Waiting<undefined>()
  #closed = false

  constructor(options: WriterOptions) {
    this.#options = options
    this.#evictions = new Evictions(options.report, options.timing.heartbeatMs)
    this.#loop = new Loop({
      run: () => this.#write(),
      onError: (error) => this.#failed(error),
      maxBackoffMs: () => MAX_BACKOFF_MS,
    })
  }

  add(membership: OwnMembership): void {
    this.#unfinished.add(membership)
    this.#loop.wakeNow()
  }

  /** The database is reached again: ends a backoff. */
  retry(): void {
    this.#loop.retry()
  }

  /** The connection was lost, or is back: try now what is unfinished. */
  recover(): void {
    if (this.#unfinished.size > 0) this.#loop.wakeNow()
  }

  /** Deregisters these, and also waits for `before`; gives up after `deadlineMs`. */
  async close(
    memberships: readonly OwnMembership[],
    deadlineMs: number,
    before: Promise<void>,
  ): Promise<void> {
    this.#closed = true
    for (const membership of memberships) this.#unfinished.add(membership)
    if (this.#unfinished.size > 0) {
      this.#loop.wakeNow()
      const drained = Promise.all([before, this.#drained.wait()])
      await within(deadlineMs, drained, 'deregistering').catch(() => undefined)
    }
    void this.#loop.stop()
  }

  async #write(): Promise<number> {
    const { report } = this.#options
    const batch = [...this.#unfinished]
    if (batch.length === 0) return Infinity
    const allowed = batch.filter((membership) => this.#evictions.waitMs(membership) <= 0)
    const refusals = [
      ...(await this.#each(batch, 'deregister', (part) => this.#leave(part))),
      ...(await this.#each(allowed, 'register', (part) => this.#register(part))),
      ...(await this.#each(batch, 'set data', (part) => this.#setData(part))),
    ]
    for (const membership of batch) {
      if (membership.state.nextStep() === undefined) this.#unfinished.delete(membership)
    }
    this.#evictions.settle()
    report.succeeded('write')
    if (this.#unfinished.size === 0) report.succeeded('deregister')
    if (this.#closed) {
      if (this.#unfinished.size === 0) this.#drained.resolve(undefined)
    } else {
      this.#options.onAnswered(batch)
      this.#lookFor(batch)
    }
    const [refusal] = refusals
    if (refusal !== undefined) throw refusal
    let waitMs = Infinity
    for (const one of this.#unfinished) {
      waitMs = Math.min(waitMs, Math.max(AGAIN_MS, this.#evictions.waitMs(one)))
    }
    return waitMs
  }

  /**
   * If the database refuses a statement, the memberships in it are tried one by one: those that it does not refuse go
   * on. Returns the refusals.
   */
  async #each(
    batch: readonly OwnMembership[],
    step: Step,
    take: (part: readonly OwnMembership[]) => Promise<void>,
  ): Promise<Error[]> {
    const refusals: Error[] = []
    const attempt = async (part: readonly OwnMembership[]): Promise<void> => {
      try {
        await take(part)
      } catch (error) {
        if (!(error instanceof SchemaError)) throw error
        if (part.length > 1) {
          for (const one of part) if (one.state.nextStep() === step) await attempt([one])
          return
        }
        tell(part, error)
        refusals.push(error)
        // There is no time to try again.
        if (this.#closed && step === 'deregister')
          for (const refused of part) this.#unfinished.delete(refused)
      }
    }
    for (const part of parts(batch.filter((membership) => membership.state.nextStep() === step)))
      await attempt(part)
    return refusals
  }

  /** If nobody knows what an attempt has left behind, and its owner wants out, a refresh tells. */
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

  /** Gives the reader the delta of an answer. The snapshot may show the steps of the batch already. */
  #wrote(batch: readonly OwnMembership[], delta: Delta): void {
    const { reader, onAnswer } = this.#options
    onAnswer(true)
    if (this.#closed) return
    reader.wrote(delta)
    this.#options.onAnswered(batch)
  }

  async #leave(batch: readonly OwnMembership[]): Promise<void> {
    const { store, report } = this.#options
    const rows = batch.flatMap(({ id, state }) =>
      state.token === undefined ? [] : [{ id, token: state.token, state }],
    )
    const { pending, obstacles, delta } = await store.deregister(rows)
    for (const obstacle of obstacles) report.failed('deregister', new Error(obstacle))
    const stays = new Set(pending)
    for (const { id, token, state } of rows) if (!stays.has(id)) state.deregistered(token, delta.to)
    this.#wrote(batch, delta)
  }

  async #register(batch: readonly OwnMembership[]): Promise<void> {
    const startedMs = monotonicMs()
    const wanted = batch.map((membership) => {
      const { id, data, state } = membership
      return { id, data, floor: state.floor, version: state.version, membership }
    })
    for (const { state } of batch) state.registerSent()
    try {
      const { tokens, evictions, delta } = await this.#options.store.register(wanted)
      for (const { id, version, membership } of wanted) {
        const [token, eviction] = [tokens.get(id), evictions.get(id)]
        if (token !== undefined) membership.registered(token, version, startedMs, delta.to)
        else if (tokens.has(id)) membership.refused()
        else membership.state.registerFailed('nothing happened')
        if (eviction !== undefined) this.#evictions.refused(membership, eviction)
      }
      this.#options.onRegistered(startedMs)
      this.#wrote(batch, delta)
    } catch (error) {
      for (const membership of batch) {
        if (failureOf(error).outcome !== 'nobody knows') membership.state.registerFailed('nothing happened')
        else {
          membership.unanswered()
          this.#options.onUnanswered(membership)
        }
      }
      throw error
    }
  }

  async #setData(batch: readonly OwnMembership[]): Promise<void> {
    const wanted = batch.flatMap(({ id, data, state }) =>
      state.token === undefined ? [] : [{ id, token: state.token, data, version: state.version, state }],
    )
    const { pending, delta } = await this.#options.store.setData(wanted)
    const unset = new Set(pending)
    for (const { id, token, version, state } of wanted) {
      if (!unset.has(id)) state.dataSet(token, version, delta.to)
    }
    this.#wrote(batch, delta)
  }

  #failed(thrown: Error): undefined {
    const { report, onAnswer } = this.#options
    const { error, answered } = failureOf(thrown)
    if (!answered) onAnswer(false)
    report.failed('write', error)
    // The memberships of a refused statement have been told about the SchemaError already.
    if (!isLasting(error) || error instanceof SchemaError) return
    tell(this.#unfinished, error)
    this.#drained.resolve(undefined)
  }
}

/** Fails the calls that wait, if waiting does not cure the error. */
function tell(memberships: Iterable<OwnMembership>, error: unknown): void {
  if (!isLasting(error)) return
  for (const membership of memberships) membership.failed(error)
}

/** Splits memberships into parts, each for one statement. */
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
