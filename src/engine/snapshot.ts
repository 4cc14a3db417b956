/** Immutable snapshots of a cluster, and how changes make the next one. */
import type { Cursor } from '../api/cursor.js'
import type { Member } from '../api/member.js'
import type { Snapshot } from '../api/snapshot.js'
import { cursorOf } from './cursor.js'
import type { MemberChange, Position } from './store.js'

class FrozenSnapshot implements Snapshot {
  readonly revision: number
  readonly cursor: Cursor
  readonly members: readonly Member[]
  #byId: ReadonlyMap<string, Member> | undefined

  constructor(position: Position, members: readonly Member[]) {
    this.revision = position.revision
    this.cursor = cursorOf(position)
    this.members = Object.freeze(members)
    Object.freeze(this)
  }

  get(id: string): Member | undefined {
    // Made at the first call: most snapshots are only iterated, and a change must stay cheap.
    this.#byId ??= new Map(this.members.map((member) => [member.id, member]))
    return this.#byId.get(id.toLowerCase())
  }
}

/** A snapshot of members in the order of tokens. Members that did not change stay the same objects. */
export function snapshotOf(position: Position, members: readonly Member[], previous?: Snapshot): Snapshot {
  return new FrozenSnapshot(
    position,
    members.map((member) => keptMember(member, previous)),
  )
}

/** The object of the previous snapshot, if nothing about the member has changed. */
export function keptMember(member: Member, previous: Snapshot | undefined): Member {
  const before = previous?.get(member.id)
  if (before !== undefined && sameMember(before, member)) return before
  return Object.isFrozen(member) ? member : freezeMember(member)
}

/**
 * The snapshot after these changes. undefined: a change does not fit. A member that joins must not be there before,
 * and one that changes or leaves must be. Otherwise the snapshot or the log is wrong, and only the table tells which.
 */
export function snapshotAfter(
  previous: Snapshot,
  position: Position,
  changes: readonly MemberChange[],
): Snapshot | undefined {
  const members = previous.members.slice()
  const ids = changes.some(({ kind }) => kind === 'joined') ? new Set(members.map(({ id }) => id)) : undefined
  for (const { kind, member } of changes) {
    const at = indexOf(members, member.token)
    const present = members[at]?.token === member.token ? members[at] : undefined
    if (kind === 'joined') {
      if (present !== undefined || ids?.has(member.id) === true) return undefined
      ids?.add(member.id)
      members.splice(at, 0, freezeMember(member))
    } else {
      if (present?.id !== member.id) return undefined
      if (kind === 'left') {
        ids?.delete(member.id)
        members.splice(at, 1)
      } else members[at] = freezeMember(member)
    }
  }
  return new FrozenSnapshot(position, members)
}

/**
 * Applies changes to a list that was read while they happened. The list may have some of them already: that does no
 * harm, because each change tells all there is to know about its registration.
 */
export function catchUp(members: Member[], changes: readonly MemberChange[]): void {
  for (const { kind, member } of changes) {
    const at = indexOf(members, member.token)
    const found = members[at]?.token === member.token
    if (kind === 'left') members.splice(at, found ? 1 : 0)
    else members.splice(at, found ? 1 : 0, freezeMember(member))
  }
}

/** Whether a watcher that has seen `a` would see nothing new in `b`. */
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
function indexOf(members: readonly Member[], token: number): number {
  let low = 0
  let high = members.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((members[middle]?.token ?? Infinity) < token) low = middle + 1
    else high = middle
  }
  return low
}

function freezeMember({ id, data, token, registeredAt }: Member): Member {
  return Object.freeze({ id, data, token, registeredAt })
}

export function sameMember(a: Member, b: Member): boolean {
  return a.id === b.id && a.token === b.token && a.data === b.data && a.registeredAt === b.registeredAt
}
