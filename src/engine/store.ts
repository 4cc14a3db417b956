/** What a cluster asks of whatever holds its members: the one thing PostgreSQL and memory differ in. */
import type { Change } from '../api/change.js'
import type { LossReason } from '../api/errors.js'
import type { Member } from '../api/member.js'
import type { QueryClient } from '../api/query-client.js'

/** A point in a cluster's history. The stamp tells apart two histories that reached equal revisions. */
export interface Position {
  readonly revision: number
  readonly stamp: string
}

export function samePosition(a: Position, b: Position): boolean {
  return a.revision === b.revision && a.stamp === b.stamp
}

/** Before its first change, a cluster has no stamp that anybody could have seen. */
export function positionOf(revision: number, stamp: string): Position {
  return { revision, stamp: revision === 0 ? '' : stamp }
}

/** What happened to a member, as far as snapshots need to know. */
export interface MemberChange {
  readonly kind: 'joined' | 'updated' | 'left'
  /** Of one that left, only id and token count. */
  readonly member: Member
}

/** What one transaction has changed. */
export interface Delta {
  readonly to: Position
  /** undefined: what happened before `to` is not told, or was nothing. */
  readonly from: Position | undefined
  readonly changes: readonly MemberChange[]
}

/** A delta that tells only where a change has led. */
export function untold(to: Position): Delta {
  return { to, from: undefined, changes: [] }
}

/** One stay of a member; what names a row beyond doubt. */
export interface Registration {
  readonly id: string
  readonly token: number
}

/** Where the database found a cluster. */
export interface Sighting extends Position {
  /** Turns to sweep were missed. */
  readonly sweepOverdue: boolean
}

/** What one statement reads of a cluster: bounded in bytes, so that it fits into its time. */
export interface Reading extends Sighting {
  /** What the history has at the position that was asked about: unknown where the log was trimmed, or ends before. */
  readonly history: 'same' | 'other' | 'unknown'
}

export interface ChangesReading extends Reading {
  /** The first of those that were asked for, at least one if there is any; none unless history is 'same'. */
  readonly changes: readonly MemberChange[]
  /** The position after them. */
  readonly reached: Position
}

export interface MembersReading extends Reading {
  /** In token order, at least one if there is any. */
  readonly members: readonly Member[]
  /** There are no more. */
  readonly complete: boolean
  /** From a standby, whose view may be old. */
  readonly recovering: boolean
}

/** What one statement reads of the log, for those who want to know each change: bounded as a page of changes is. */
export interface LogReading {
  /** Where the cluster is. */
  readonly head: Position
  /** Whether all that follows the position that was asked about is there, in the history that it is of. */
  readonly follows: 'all' | 'trimmed' | 'replaced'
  /** The first of it, at least one if there is any; none unless it follows. Frozen. */
  readonly changes: readonly Change[]
  /** The position after them. */
  readonly reached: Position
}

export interface Heartbeat extends Sighting {
  /** Ids whose rows somebody holds locked: renewed, unless they were about to be removed. */
  readonly locked: readonly string[]
  /** Registrations that are gone, and why. */
  readonly missing: ReadonlyMap<string, LossReason>
}

/** What the log says of a registration that its owner did not give up. */
export function lossOf(reason: string): LossReason {
  // Somebody else called deregister(): for the owner, that is a removal.
  return reason === 'deregistered' ? 'removed' : (reason as LossReason)
}

export interface Sweep {
  /** Milliseconds until this process's next turn. */
  readonly waitMs: number
  readonly removed: number
  /** What could not be removed, and why. */
  readonly obstacles: readonly string[]
}

/** What a write has done. The position that its delta leads to shows it. */
export interface Registered {
  /** The tokens by id; undefined where another cluster holds the id. Left out: try again. */
  readonly tokens: ReadonlyMap<string, number | undefined>
  readonly delta: Delta
}

export interface DataSet {
  /** The ids that were left alone because somebody holds their rows. */
  readonly pending: readonly string[]
  readonly delta: Delta
}

export interface Departure {
  /** The ids that are still there because somebody holds their rows, or refuses. */
  readonly pending: readonly string[]
  /** Who refuses, and why. */
  readonly obstacles: readonly string[]
  readonly delta: Delta
}

export interface Store {
  /** What happened since, up to a revision if one is given. */
  readChanges(since: Position, upTo?: number): Promise<ChangesReading>
  /** The members whose tokens are above `after`. */
  readMembers(after: number, since?: Position): Promise<MembersReading>
  /** What the log has after a position; without one, only where the cluster is. */
  readLog(after?: Position): Promise<LogReading>
  heartbeat(registrations: readonly Registration[]): Promise<Heartbeat>
  /** A retry finds its own row. */
  register(
    wanted: readonly { readonly id: string; readonly data: string; readonly floor: number }[],
  ): Promise<Registered>
  setData(wanted: readonly (Registration & { readonly data: string })[]): Promise<DataSet>
  deregister(registrations: readonly Registration[]): Promise<Departure>
  sweep(): Promise<Sweep>
  fence(client: QueryClient, registration: Registration): Promise<void>
}
