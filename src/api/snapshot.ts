import type { Member } from './member.js'

/** An immutable view of a cluster at one revision. */
export interface Snapshot {
  readonly revision: number
  /** Oldest registration first (ascending token), so that members[0] is everybody's natural leader. */
  readonly members: readonly Member[]
  get(id: string): Member | undefined
}
