import type { Cursor } from './cursor.js'
import type { Member } from './member.js'

/** An immutable view of a cluster at one revision. */
export interface Snapshot {
  /** The revision of the cluster: 0 before its first change, and 1 higher with each change of membership. */
  readonly revision: number
  /** `watchChanges({ since: snapshot.cursor })` goes on exactly where this snapshot stands. */
  readonly cursor: Cursor
  /** Oldest registration first (ascending token), so that members[0] is everybody's natural leader. */
  readonly members: readonly Member[]
  /** The member with this id, in upper or lower case; undefined when it is not registered. */
  get(id: string): Member | undefined
}
