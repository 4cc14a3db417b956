/** Whether what was read of the log is what follows a position, in the history that the position is of. */
import { type LogReading, type Position, samePosition } from '../engine/store.js'

export interface LogHead {
  /** Of the event at the position's revision; null: the log has none. */
  readonly stamp_then: string | null
  /** Of the cluster, before its last change. */
  readonly previous_stamp: string | null
}

/**
 * Trimming leaves holes, and may have taken the event at the position itself. Its stamp is then that of the change
 * before the last one, or nobody knows whether what follows is of the same history.
 */
export function followsOf(
  after: Position,
  head: Position,
  { stamp_then, previous_stamp }: LogHead,
  events: readonly { readonly revision: string | null }[],
): LogReading['follows'] {
  if (samePosition(after, head)) return 'all'
  if (head.revision <= after.revision) return 'replaced'
  const then = after.revision === 0 ? '' : (stamp_then ?? previous_stamp)
  if (then !== after.stamp) return stamp_then === null ? 'trimmed' : 'replaced'
  const isWhole = events.every(({ revision }, n) => Number(revision) === after.revision + n + 1)
  return isWhole && events.length > 0 ? 'all' : 'trimmed'
}
