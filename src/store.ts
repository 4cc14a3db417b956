/** What a cluster asks of whatever holds its members: the one thing PostgreSQL and memory differ in. */
import type { LossReason } from './errors.js'
import type { Change } from './snapshot.js'
import type { Member } from './member.js'
import type { QueryClient } from './query-client.js'

/** A point in a cluster's history. The stamp tells apart two histories that reached equal revisions. */
export interface Position {
  readonly revision: number
  readonly stamp: string
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

export type Reading = Sighting &
  (
    | { readonly kind: 'same' }
    | { readonly kind: 'changes'; readonly changes: readonly Change[] }
    | {
        readonly kind: 'all'
        readonly members: readonly Member[]
        /** From a standby, whose view may be old. */
        readonly recovering: boolean
        /** The log has something else at the position that was asked about. */
        readonly diverged: boolean
      }
  )

export interface Heartbeat extends Sighting {
  /** Ids whose rows somebody holds locked: renewed, unless they were about to be removed. */
  readonly locked: readonly string[]
  /** Registrations that are gone, and why. */
  readonly missing: ReadonlyMap<string, LossReason>
}

export interface Sweep {
  /** Milliseconds until this process's next turn. */
  readonly waitMs: number
  readonly removed: number
  /** What could not be removed, and why. */
  readonly obstacles: readonly string[]
}

export interface Departure {
  /** The ids that are still there because somebody holds their rows, or refuses. */
  readonly pending: readonly string[]
  /** Who refuses, and why. */
  readonly obstacles: readonly string[]
}

export interface Store {
  /** What happened since; everything when that is not known, or nothing was read yet. */
  read(since: Position | undefined): Promise<Reading>
  heartbeat(registrations: readonly Registration[]): Promise<Heartbeat>
  /**
   * The tokens by id; undefined where another cluster holds the id. Left out: try again. A retry finds its
   * own row.
   */
  register(
    wanted: readonly { readonly id: string; readonly data: string; readonly floor: number }[],
  ): Promise<ReadonlyMap<string, number | undefined>>
  /** The ids that were left alone because somebody holds their rows. */
  setData(wanted: readonly (Registration & { readonly data: string })[]): Promise<readonly string[]>
  deregister(registrations: readonly Registration[]): Promise<Departure>
  sweep(): Promise<Sweep>
  fence(client: QueryClient, registration: Registration): Promise<void>
}
