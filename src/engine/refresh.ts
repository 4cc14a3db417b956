/**
 * One refresh: it brings the cached snapshot to a position that the database had during the refresh. It works in
 * steps of one statement. A statement reads a bounded amount, so that heartbeats get their turns on the connection
 * in between. After a failure, the refresh goes on with the same step.
 *
 * First it reads the changes since the cached position, up to the position that the first step found. Only there is
 * it sure that no transaction is cut in two. It reads all members instead if the log has lost some of the changes,
 * if a change does not fit the snapshot, or if the changes are larger than the members themselves.
 *
 * Members are read in pages, in the order of tokens. Changes go on meanwhile, so each page has a position of its own,
 * and the next page must find that position in its history. At the end, the changes from the first page's position
 * to the last page's are applied to all pages. The result is the table as it was at the last page's position.
 *
 * Meanwhile deltas may move the cached snapshot on. The reader compares the outcome with it (reader.ts).
 */
import type { Member } from '../api/member.js'
import type { Snapshot } from '../api/snapshot.js'
import { diffMembers } from './diff.js'
import type { Report } from './report.js'
import { catchUp, keptMember, sameMembers, snapshotAfter, snapshotOf } from './snapshot.js'
import { type Position, samePosition, type Sighting, type Store } from './store.js'
import { Told } from './told.js'

export interface Cached {
  readonly snapshot: Snapshot
  readonly position: Position
}

export interface RefreshOptions {
  /** What this process has been told of. Each statement asks whether the database has it. */
  readonly told?: Told
  /** The cached members are wrong: read them all. */
  readonly all?: boolean
}

type Source = Pick<Store, 'readChanges' | 'readMembers'>

export type Outcome =
  | { readonly kind: 'same' }
  | ({
      readonly kind: 'changes' | 'all'
      /** This process was told of this position, and the database does not have it: it has lost commits. */
      readonly lost: Position | undefined
      /** A change in the log did not fit the snapshot. */
      readonly misfit: boolean
    } & Cached)

type Stage =
  | ({ readonly reading: 'changes'; readonly target?: Position; readonly bytes: number } & Cached)
  | {
      readonly reading: 'members'
      /** What an answer before this stage did not have. A standby may have given it: so it is asked about again. */
      readonly suspects: readonly Position[]
      readonly members: Member[]
      readonly first?: Position
      readonly last?: Position
    }
  | {
      readonly reading: 'the rest'
      readonly members: Member[]
      readonly position: Position
      readonly target: Position
    }

/** The approximate size of a member or a change without its data. */
const ROW_BYTES = 100
/** Changes up to this size are read even if all members are smaller. */
const DELTA_BYTES = 2_097_152

export class Refresh {
  readonly #store: Source
  readonly #cached: Cached | undefined
  readonly #told: Told
  #stage: Stage
  #lost: Position | undefined
  #misfit = false
  #sweepOverdue = false

  constructor(store: Source, cached: Cached | undefined, { told, all }: RefreshOptions = {}) {
    this.#store = store
    this.#cached = cached
    this.#told = told ?? new Told(cached?.position)
    const hasHistory = cached !== undefined && cached.position.stamp !== ''
    const readsChanges = hasHistory && all !== true
    this.#stage = readsChanges
      ? { reading: 'changes', ...cached, bytes: 0 }
      : { reading: 'members', suspects: [], members: [] }
  }

  /** The snapshot that was cached when the refresh began. */
  get cached(): Cached | undefined {
    return this.#cached
  }

  /** The last answer told that turns to sweep were missed. */
  get sweepOverdue(): boolean {
    return this.#sweepOverdue
  }

  /** Runs one statement. Returns undefined if there is more to read. */
  async step(): Promise<Outcome | undefined> {
    const stage = this.#stage
    if (stage.reading === 'changes') return await this.#readChanges(stage)
    if (stage.reading === 'members') return await this.#readMembers(stage)
    return await this.#readRest(stage)
  }

  async #readChanges(stage: Stage & { reading: 'changes' }): Promise<Outcome | undefined> {
    const look = this.#told.look()
    const answer = await this.#store.readChanges(stage.position, look.told, stage.target?.revision)
    const { changes, reached } = answer
    const head = this.#sighted(answer)
    if (answer.lost !== undefined) {
      this.#stage = { reading: 'members', suspects: look.told, members: [] }
      return undefined
    }
    this.#told.settle(look, head)
    const target = stage.target ?? head
    if (samePosition(stage.position, target)) return { kind: 'same' }
    const bytes = stage.bytes + sizeOf(changes.map(({ member }) => member))
    const snapshot = changes.length > 0 ? snapshotAfter(stage.snapshot, reached, changes) : undefined
    this.#misfit = changes.length > 0 && snapshot === undefined
    if (snapshot !== undefined && samePosition(reached, target))
      return this.#done('changes', snapshot, target)
    if (
      snapshot === undefined ||
      reached.revision >= target.revision ||
      bytes > DELTA_BYTES + sizeOf(this.#cached?.snapshot.members ?? [])
    ) {
      this.#stage = { reading: 'members', suspects: [], members: [] }
    } else {
      this.#stage = { reading: 'changes', snapshot, position: reached, target, bytes }
    }
    return undefined
  }

  async #readMembers(stage: Stage & { reading: 'members' }): Promise<Outcome | undefined> {
    const { members, suspects } = stage
    const before = this.#cached
    const look = this.#told.look()
    const told = stage.last === undefined ? [...new Set([...suspects, ...look.told])] : look.told
    const answer = await this.#store.readMembers(members.at(-1)?.token ?? -1, told, stage.last)
    const { lost } = answer
    const last = this.#sighted(answer)
    if (lost === undefined) this.#told.settle(look, last)
    if (stage.last === undefined) {
      if (lost !== undefined && answer.recovering)
        throw new Error('The database is a standby that lags behind')
      this.#lost = lost
    } else if (answer.history !== 'same' || (lost !== undefined && this.#lost === undefined)) {
      this.#startOver(look.told)
    }
    for (const member of answer.members) members.push(keptMember(member, before?.snapshot))
    const first = stage.first ?? last
    if (!answer.complete) this.#stage = { reading: 'members', suspects: [], members, first, last }
    else if (samePosition(first, last))
      return this.#done('all', snapshotOf(last, members, before?.snapshot), last)
    else this.#stage = { reading: 'the rest', members, position: first, target: last }
    return undefined
  }

  async #readRest(stage: Stage & { reading: 'the rest' }): Promise<Outcome | undefined> {
    const { members, position, target } = stage
    const look = this.#told.look()
    const answer = await this.#store.readChanges(position, look.told, target.revision)
    const { changes, reached, lost } = answer
    const head = this.#sighted(answer)
    if (lost === undefined) this.#told.settle(look, head)
    else if (this.#lost === undefined) this.#startOver(look.told)
    const done = samePosition(reached, target)
    if (changes.length === 0 || (reached.revision >= target.revision && !done)) this.#startOver([])
    catchUp(members, changes)
    if (done) return this.#done('all', snapshotOf(target, members, this.#cached?.snapshot), target)
    this.#stage = { reading: 'the rest', members, position: reached, target }
    return undefined
  }

  #sighted({ revision, stamp, sweepOverdue }: Sighting): Position {
    this.#sweepOverdue = sweepOverdue
    return { revision, stamp }
  }

  #done(kind: 'changes' | 'all', snapshot: Snapshot, position: Position): Outcome {
    const before = this.#cached
    if (
      before !== undefined &&
      this.#lost === undefined &&
      samePosition(before.position, position) &&
      sameMembers(before.snapshot.members, snapshot.members)
    ) {
      return { kind: 'same' }
    }
    if (this.#lost !== undefined) this.#told.restart(position)
    return { kind, snapshot, position, lost: this.#lost, misfit: this.#misfit }
  }

  /** Throws, so that the next attempt waits for a backoff. */
  #startOver(suspects: readonly Position[]): never {
    this.#stage = { reading: 'members', suspects, members: [] }
    throw new Error(
      'While the members were read, the log was trimmed, or the database was replaced by another',
    )
  }
}

function sizeOf(members: readonly Member[]): number {
  return members.reduce((bytes, { data }) => bytes + data.length + ROW_BYTES, 0)
}

/** Reports what never happens with a database in order. `cached`: the revision of the snapshot. */
export function reportLosses(
  report: Report,
  { lost, misfit, position }: Outcome & { readonly kind: 'changes' | 'all' },
  cached: number,
): void {
  const tell = (error: Error, message: string, from: number): void => {
    const details = { from, to: position.revision }
    report.log('error', details, message)
    report.publish('error', { doing: 'refresh', error, ...details })
  }
  if (lost !== undefined) {
    tell(
      new Error('The database lost commits'),
      'The database lost commits: it does not have what this process was told of',
      lost.revision,
    )
  }
  if (misfit) {
    const error = new Error('The log does not fit the cached members: all members were read again')
    tell(error, error.message, cached)
  }
}

/** Reports what a refresh has changed. The first load is no change. */
export function reportDifference(report: Report, before: Snapshot | undefined, after: Snapshot): void {
  if (before === undefined) return
  report.publish('delta', () => {
    const { joined, updated, left } = diffMembers(before.members, after.members)
    const counts = { joined: joined.length, updated: updated.length, left: left.length }
    return { source: 'refresh' as const, revision: after.revision, ...counts }
  })
}
