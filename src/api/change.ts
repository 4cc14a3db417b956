import type { Cursor } from './cursor.js'
import type { Member } from './member.js'

/** One entry of a cluster's history. Frozen; survives JSON. */
export interface Change {
  /** Go on after this change with `watchChanges({ since: change.cursor })`. */
  readonly cursor: Cursor
  /** The number of the change: 1 higher than that of the change before it. */
  readonly revision: number
  /** When it happened: server time, ISO 8601 UTC. */
  readonly at: string
  /** What happened to the member. */
  readonly kind: 'joined' | 'updated' | 'left'
  /**
   * Why: 'registered' when it joined, 'data' when it was updated. It left because it was 'deregistered', 'expired'
   * (silent for longer than its ttl), 'crashed' (its connections were gone for longer than the grace), 'removed'
   * (somebody deleted its row) or 'superseded' (the same id registered again).
   */
  readonly reason: 'registered' | 'data' | 'deregistered' | 'expired' | 'crashed' | 'removed' | 'superseded'
  /** As it is from here on; for 'left', as it was last. */
  readonly member: Member
}
