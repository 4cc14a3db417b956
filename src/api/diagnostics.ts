/** The messages that the library publishes on channels of `node:diagnostics_channel`. */
import type { Cluster } from './cluster.js'
import type { ClosedError, DeregisteredError, MembershipLostError } from './errors.js'
import type { Status } from './status.js'

/** Work in the background, which may fail. */
export type Activity =
  'deregister' | 'feed' | 'heartbeat' | 'listen' | 'refresh' | 'register' | 'sweep' | 'write'

interface OfCluster {
  /** The cluster's name. */
  readonly cluster: string
  /** The cluster object that published the message: there may be several with one name. */
  readonly publisher: Cluster
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

/** The snapshot moved on: by a delta, or by a refresh that found something else than the snapshot. */
export interface DeltaMessage extends OfCluster {
  /** An announcement, the answer to a write of this process, or a refresh. */
  readonly source: 'announcement' | 'answer' | 'refresh'
  /** The revision of the snapshot after it. */
  readonly revision: number
  /** The number of members that joined. A member that came back is counted here and under `left`. */
  readonly joined: number
  /** The number of members whose data changed. */
  readonly updated: number
  /** The number of members that left. */
  readonly left: number
}

/** A refresh has ended. */
export interface RefreshMessage extends OfCluster {
  /** 'same': it found nothing new. 'changes': it read only changes. 'all': it read all members. */
  readonly kind: 'same' | 'changes' | 'all'
  /** Milliseconds from its start to its end. It may have failed and gone on in between. */
  readonly durationMs: number
}

/** A heartbeat was answered. */
export interface HeartbeatMessage extends OfCluster {
  /** The number of registrations in the heartbeat. */
  readonly registrations: number
  /** The number of leases that this process has in the cluster after it. */
  readonly leases: number
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
  /** The number of leases that this process has in the cluster from now on. */
  readonly leases: number
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
  /**
   * Only set when the database lost commits: the newest revision that this process had been told of. Or when its log did
   * not fit the snapshot: the revision of the snapshot.
   */
  readonly from?: number
  /** The revision of the database now; set together with `from`. */
  readonly to?: number
}

/** The names of the channels, and the message of each. */
export interface DiagnosticsMessages {
  /** The cached snapshot changed. */
  readonly 'pg-membership:snapshot': SnapshotMessage
  /** The cached snapshot moved on. */
  readonly 'pg-membership:delta': DeltaMessage
  /** A refresh has ended. */
  readonly 'pg-membership:refresh': RefreshMessage
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
