import type { Member } from '../api/member.js'
import { sameMember } from './snapshot.js'

/**
 * What changed between two lists of members, by id and token: a member that left and came back between them has
 * another token, and is both in `left` and in `joined`. Pure: it asks nobody, and changes neither list.
 *
 * `left` is in the order of the first list, the others are in that of the second one.
 */
export function diffMembers(
  before: readonly Member[],
  after: readonly Member[],
): {
  /** Only in the second list. */
  readonly joined: readonly Member[]
  /** Only in the first list. */
  readonly left: readonly Member[]
  /** In both, with other data. */
  readonly updated: readonly {
    /** As it was. */
    readonly before: Member
    /** As it is. */
    readonly after: Member
  }[]
} {
  const earlier = new Map(before.map((member) => [registrationOf(member), member]))
  const joined: Member[] = []
  const updated: { readonly before: Member; readonly after: Member }[] = []
  for (const member of after) {
    const registration = registrationOf(member)
    const present = earlier.get(registration)
    earlier.delete(registration)
    if (present === undefined) joined.push(member)
    else if (!sameMember(present, member)) updated.push({ before: present, after: member })
  }
  return { joined, left: [...earlier.values()], updated }
}

function registrationOf({ id, token }: Member): string {
  return `${id} ${String(token)}`
}
