/** What is published on channels of `node:diagnostics_channel`: the name of each, and its message. */
import type { ClosedError, DeregisteredError, MembershipLostError } from './errors.js'
import type { Status } from './status.js'

/** What goes on in the background, and may fail. */
export type Activity = 'deregister' | 'feed' | 'heartbeat' | 'listen' | 'refresh' | 'sweep' | 'write'

interface OfCluster {
  /** The cluster's name. */
  readonly cluster: string
}

/** The reader shows another snapshot. Several changes that arrive in one turn are told once. */
export interface SnapshotMessage extends OfCluster {
  /** Of the snapshot. */
  readonly revision: number
  /** How many there are now. */
  readonly members: number
  /** All members were read, not only what had changed. */
  readonly full: boolean
}

/** A heartbeat was answered. */
export interface HeartbeatMessage extends OfCluster {
  /** How many registrations it was for. */
  readonly registrations: number
  /** Milliseconds from its start to its answer. */
  readonly durationMs: number
}

/** This process took its turn to remove the members that are gone. */
export interface SweepMessage extends OfCluster {
  /** How many it removed. */
  readonly removed: number
  /** Who could not be removed, and why, in words. */
  readonly obstacles: readonly string[]
}

/** A lease of this process began or ended. */
export interface LeaseMessage extends OfCluster {
  /** Of the membership. */
  readonly id: string
  /** Of the registration. */
  readonly token: number
  /** What has happened to it. */
  readonly state: 'granted' | 'ended'
  /** Why it ended; undefined when it was granted. */
  readonly error: MembershipLostError | ClosedError | DeregisteredError | undefined
}

/** The mode of `cluster.status` is another one. */
export interface StatusMessage extends OfCluster {
  /** The new one. */
  readonly mode: Status['mode']
}

/** Something failed in the background, each time it does; it is tried again. */
export interface ErrorMessage extends OfCluster {
  /** What was being done. */
  readonly doing: Activity
  /** Why it failed; the library's own errors say what to do. */
  readonly error: Error
  /** Only where the history in the database is another one than was cached: the revision that was cached. */
  readonly from?: number
  /** And the revision that is there now. */
  readonly to?: number
}

/** Channel names, and what is published on each. */
export interface DiagnosticsMessages {
  /** The cached snapshot changed. */
  readonly 'pg-membership:snapshot': SnapshotMessage
  /** A heartbeat was answered. */
  readonly 'pg-membership:heartbeat': HeartbeatMessage
  /** A turn to sweep was taken. */
  readonly 'pg-membership:sweep': SweepMessage
  /** A lease began or ended. */
  readonly 'pg-membership:lease': LeaseMessage
  /** The mode changed. */
  readonly 'pg-membership:status': StatusMessage
  /** Something failed in the background. */
  readonly 'pg-membership:error': ErrorMessage
}
