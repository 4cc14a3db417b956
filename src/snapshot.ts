/** Immutable snapshots of a cluster, and how one follows from another. */
import { freezeMember, sameMember, type Member } from './member.js'

/** An immutable view of a cluster at one revision. */
export interface Snapshot {
  readonly revision: number
  /** Oldest registration first (ascending token), so that members[0] is everybody's natural leader. */
  readonly members: readonly Member[]
  get(id: string): Member | undefined
}

/** One row of the event log. */
export interface Change {
  readonly kind: 'joined' | 'updated' | 'left'
  readonly member: Member
}

class FrozenSnapshot implements Snapshot {
  readonly revision: number
  readonly members: readonly Member[]
  #byId: ReadonlyMap<string, Member> | undefined

  constructor(revision: number, members: readonly Member[]) {
    this.revision = revision
    this.members = Object.freeze(members)
    Object.freeze(this)
  }

  get(id: string): Member | undefined {
    // Made when first asked for: most snapshots are only iterated, and a change must stay cheap.
    this.#byId ??= new Map(this.members.map((member) => [member.id, member]))
    return this.#byId.get(id.toLowerCase())
  }
}

/** From a full read; members that did not change keep their identity. `members` are in token order. */
export function snapshotOf(revision: number, members: readonly Member[], previous?: Snapshot): Snapshot {
  const kept = members.map((member) => {
    const before = previous?.get(member.id)
    return before !== undefined && sameMember(before, member) ? before : freezeMember(member)
  })
  return new FrozenSnapshot(revision, kept)
}

/** From a snapshot and what happened since. A change is applied to the one registration it names, or to none. */
export function snapshotAfter(previous: Snapshot, revision: number, changes: readonly Change[]): Snapshot {
  const members = previous.members.slice()
  for (const { kind, member } of changes) {
    const at = positionOf(members, member.token)
    const present = members[at]
    const found = present?.id === member.id && present.token === member.token
    if (kind === 'joined') {
      if (!found) members.splice(at, 0, freezeMember(member))
    } else if (found) {
      if (kind === 'left') members.splice(at, 1)
      else members[at] = freezeMember({ ...present, data: member.data })
    }
  }
  return new FrozenSnapshot(revision, members)
}

/** Whether a watcher of the one would see anything new in the other. */
export function sameMembers(a: readonly Member[], b: readonly Member[]): boolean {
  return (
    a === b ||
    (a.length === b.length &&
      a.every((member, index) => {
        const other = b[index]
        return other !== undefined && (member === other || sameMember(member, other))
      }))
  )
}

/** The index of the first member with this token or a higher one. */
function positionOf(members: readonly Member[], token: number): number {
  let low = 0
  let high = members.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((members[middle]?.token ?? Infinity) < token) low = middle + 1
    else high = middle
  }
  return low
}
