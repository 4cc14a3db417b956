/** The messages that the library publishes on channels of `node:diagnostics_channel`. */
import type { ClosedError, DeregisteredError, MembershipLostError } from './errors.js'
import type { Status } from './status.js'

/** Work in the background, which may fail. */
export type Activity =
  'deregister' | 'feed' | 'heartbeat' | 'listen' | 'refresh' | 'register' | 'sweep' | 'write'

interface OfCluster {
  /** The cluster's name. */
  readonly cluster: string
}

/** The reader has a new snapshot. Changes that arrive in one tick of Node's event loop give one message. */
export interface SnapshotMessage extends OfCluster {
  /** The revision of the snapshot. */
  readonly revision: number
  /** The number of members in the snapshot. */
  readonly members: number
  /** true: all members were read. false: only changes were read. */
  readonly full: boolean
}

/** A heartbeat was answered. */
export interface HeartbeatMessage extends OfCluster {
  /** The number of registrations in the heartbeat. */
  readonly registrations: number
  /** Milliseconds from the start of the heartbeat to its answer. */
  readonly durationMs: number
}

/** This process took its turn to remove the members that are gone. */
export interface SweepMessage extends OfCluster {
  /** The number of members that were removed. */
  readonly removed: number
  /** The members that could not be removed, and why; text for people. */
  readonly obstacles: readonly string[]
}

/** A lease of this process began or ended. */
export interface LeaseMessage extends OfCluster {
  /** The id of the membership. */
  readonly id: string
  /** The token of the registration. */
  readonly token: number
  /** Whether the lease began or ended. */
  readonly state: 'granted' | 'ended'
  /** Why the lease ended; undefined when it was granted. */
  readonly error: MembershipLostError | ClosedError | DeregisteredError | undefined
}

/** A membership of this process asked to be registered, and was refused: somebody has evicted it. */
export interface EvictionMessage extends OfCluster {
  /** The id of the membership. */
  readonly id: string
  /** The database role that evicted it. */
  readonly byRole: string
  /** Why, in the words of whoever did it. */
  readonly note: string
  /** When it may register again: ISO 8601 UTC, by the database's clock; undefined: when it is allowed to. */
  readonly until: string | undefined
}

/** The mode of `cluster.status` changed. */
export interface StatusMessage extends OfCluster {
  /** The new mode. */
  readonly mode: Status['mode']
}

/** Something failed in the background, and is tried again. Each failure gives a message. */
export interface ErrorMessage extends OfCluster {
  /** What failed. */
  readonly doing: Activity
  /** Why it failed; the library's own errors say what to do. */
  readonly error: Error
  /** The cached revision. Only set when the database lost commits, or its log did not fit the snapshot. */
  readonly from?: number
  /** The revision of the database now; set together with `from`. */
  readonly to?: number
}

/** The names of the channels, and the message of each. */
export interface DiagnosticsMessages {
  /** The cached snapshot changed. */
  readonly 'pg-membership:snapshot': SnapshotMessage
  /** A heartbeat was answered. */
  readonly 'pg-membership:heartbeat': HeartbeatMessage
  /** This process took a turn to sweep. */
  readonly 'pg-membership:sweep': SweepMessage
  /** A lease began or ended. */
  readonly 'pg-membership:lease': LeaseMessage
  /** A membership of this process is kept away; once for each eviction that it finds. */
  readonly 'pg-membership:eviction': EvictionMessage
  /** The mode changed. */
  readonly 'pg-membership:status': StatusMessage
  /** Something failed in the background. */
  readonly 'pg-membership:error': ErrorMessage
}
