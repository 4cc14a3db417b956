/** The port: what a cluster asks of the store of its members. PostgreSQL and memory differ only in this. */
import type { Change } from '../api/change.js'
import type { LossReason } from '../api/errors.js'
import type { Member } from '../api/member.js'
import type { QueryClient } from '../api/query-client.js'
import type { Registration } from '../api/registration.js'

/** A point in a cluster's history. The stamp tells apart two histories that reached equal revisions. */
export interface Position {
  readonly revision: number
  readonly stamp: string
}

export function samePosition(a: Position, b: Position): boolean {
  return a.revision === b.revision && a.stamp === b.stamp
}

/** A stamp belongs to a change: a cluster without any has none, even if its row has a value there. */
export function positionOf(revision: number, stamp: string): Position {
  return { revision, stamp: revision === 0 ? '' : stamp }
}

/** What happened to a member, as far as snapshots need to know. */
export interface MemberChange {
  readonly kind: 'joined' | 'updated' | 'left'
  /** Of one that left, only id and token count. */
  readonly member: Member
}

/** The changes of one transaction. */
export interface Delta {
  readonly to: Position
  /** undefined: nothing happened, or the delta does not tell what. */
  readonly from: Position | undefined
  readonly changes: readonly MemberChange[]
}

/** A delta that tells where the cluster is, but not what changed. */
export function untold(to: Position): Delta {
  return { to, from: undefined, changes: [] }
}

/** The position of a cluster that an answer of the database tells. */
export interface Sighting extends Position {
  /** Turns to sweep were missed. */
  readonly sweepOverdue: boolean
}

/** What one statement reads of a cluster: bounded in bytes, so that the statement ends in time. */
export interface Reading extends Sighting {
  /** One of the positions that had been told, if the database does not have it. */
  readonly lost: Position | undefined
  /** Whether the history has the position that was asked about. 'unknown': the log was trimmed, or ends before it. */
  readonly history: 'same' | 'other' | 'unknown'
}

export interface ChangesReading extends Reading {
  /** The first of the changes that were asked for: at least one if there are any. None unless `history` is 'same'. */
  readonly changes: readonly MemberChange[]
  /** The position after them. */
  readonly reached: Position
}

export interface MembersReading extends Reading {
  /** In the order of tokens; at least one if there are any. */
  readonly members: readonly Member[]
  /** There are no more. */
  readonly complete: boolean
  /** The answer comes from a standby, whose view may be old. */
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
  /** Ids of rows that somebody has locked. They are renewed, unless they were about to be removed. */
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
  /** Which members could not be removed, and why. */
  readonly obstacles: readonly string[]
}

/** Somebody removed a member, and keeps it away. */
export interface Eviction {
  readonly byRole: string
  readonly note: string
  /** ISO 8601 UTC, by the database's clock; undefined: until it is allowed again. */
  readonly until: string | undefined
}

/** What `register` has done. A snapshot at the end of the delta, or after it, shows it. */
export interface Registered {
  /** The tokens by id. undefined: the id is registered in another cluster. An id that is in neither map: try again. */
  readonly tokens: ReadonlyMap<string, number | undefined>
  /** Those that may not register now, by id. */
  readonly evictions: ReadonlyMap<string, Eviction>
  readonly delta: Delta
}

export interface DataSet {
  /** The ids whose data is not set, because somebody has locked their rows. */
  readonly pending: readonly string[]
  readonly delta: Delta
}

export interface Departure {
  /** The ids that are still registered, because somebody has locked their rows, or the database refuses. */
  readonly pending: readonly string[]
  /** Which of these the database refuses to remove, and why. */
  readonly obstacles: readonly string[]
  readonly delta: Delta
}

export interface Store {
  /** Reads the changes after a position, up to the revision `upTo` if it is given. */
  readChanges(since: Position, told: readonly Position[], upTo?: number): Promise<ChangesReading>
  /** Reads the members with a token above `after`. The answer's `history` is about `since`. */
  readMembers(after: number, told: readonly Position[], since?: Position): Promise<MembersReading>
  /** What the log has after a position; without one, only where the cluster is. */
  readLog(after?: Position): Promise<LogReading>
  heartbeat(registrations: readonly Registration[]): Promise<Heartbeat>
  /** A retry finds the row of the first attempt: its token is above the floor. */
  register(
    wanted: readonly { readonly id: string; readonly data: string; readonly floor: number }[],
  ): Promise<Registered>
  setData(wanted: readonly (Registration & { readonly data: string })[]): Promise<DataSet>
  deregister(registrations: readonly Registration[]): Promise<Departure>
  sweep(): Promise<Sweep>
  fence(client: QueryClient, registration: Registration): Promise<void>
}
