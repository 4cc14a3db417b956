/** Immutable snapshots of a cluster, and how one follows from another. */
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
    // Made when first asked for: most snapshots are only iterated, and a change must stay cheap.
    this.#byId ??= new Map(this.members.map((member) => [member.id, member]))
    return this.#byId.get(id.toLowerCase())
  }
}

/** Of members in token order; those that did not change keep their identity. */
export function snapshotOf(position: Position, members: readonly Member[], previous?: Snapshot): Snapshot {
  return new FrozenSnapshot(
    position,
    members.map((member) => keptMember(member, previous)),
  )
}

/** As it was before, where nothing about it has changed. */
export function keptMember(member: Member, previous: Snapshot | undefined): Member {
  const before = previous?.get(member.id)
  if (before !== undefined && sameMember(before, member)) return before
  return Object.isFrozen(member) ? member : freezeMember(member)
}

/**
 * From a snapshot and all that happened since. undefined: a change fits nothing there. Whoever joins was not
 * there, and whoever changes or leaves was: otherwise snapshot or log is wrong, and only the table tells.
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
 * Brings a list that was read while these changes happened to where it is after them, whichever of them it
 * has seen already: each tells all there is to know about the registration that it names.
 */
export function catchUp(members: Member[], changes: readonly MemberChange[]): void {
  for (const { kind, member } of changes) {
    const at = indexOf(members, member.token)
    const found = members[at]?.token === member.token
    if (kind === 'left') members.splice(at, found ? 1 : 0)
    else members.splice(at, found ? 1 : 0, freezeMember(member))
  }
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
