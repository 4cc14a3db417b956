import fc from 'fast-check'
import type { Member } from 'pg-membership'
import { diffMembers } from 'pg-membership'
import { expect, test } from 'vitest'

/** Lists in token order, of a few ids, tokens and data, so that all ways to differ come up. */
const lists = fc
  .uniqueArray(
    fc.record({
      id: fc.constantFrom('a', 'b', 'c', 'd'),
      token: fc.integer({ min: 1, max: 9 }),
      data: fc.constantFrom('', 'x', 'y'),
    }),
    { selector: ({ id }) => id },
  )
  .map((members): Member[] =>
    members
      .sort((a, b) => a.token - b.token || (a.id < b.id ? -1 : 1))
      .map((member) => Object.freeze({ ...member, registeredAt: `2026-01-0${String(member.token)}` })),
  )

const inOrder = (members: Iterable<Member>): Member[] =>
  [...members].sort((a, b) => a.token - b.token || (a.id < b.id ? -1 : 1))

test('contract: what diffMembers tells, applied to the first list, gives the second one', () => {
  fc.assert(
    fc.property(lists, lists, (before, after) => {
      const { joined, left, updated } = diffMembers(before, after)
      const members = new Set(before)
      for (const member of left) expect(members.delete(member)).toBe(true)
      for (const { before: old, after: now } of updated) {
        expect(members.delete(old)).toBe(true)
        members.add(now)
      }
      for (const member of joined) members.add(member)
      expect(inOrder(members)).toEqual(after)
    }),
  )
})

test('contract: diffMembers tells nothing of what is the same, and the other way round the opposite', () => {
  fc.assert(
    fc.property(lists, lists, (before, after) => {
      const { joined, left, updated } = diffMembers(before, after)
      const back = diffMembers(after, before)
      expect(back.joined).toEqual(left)
      expect(back.left).toEqual(joined)
      const turned = updated.map((pair) => ({ before: pair.after, after: pair.before }))
      expect(new Set(back.updated)).toEqual(new Set(turned))
      for (const pair of updated) expect(pair.before).not.toEqual(pair.after)
      const copy = JSON.parse(JSON.stringify(before)) as Member[]
      expect(diffMembers(before, copy)).toEqual({ joined: [], left: [], updated: [] })
    }),
  )
})

test('contract: a member that came back is both left and joined', () => {
  const member = { id: 'a', data: '', token: 1, registeredAt: '' }
  const again = { ...member, token: 5 }
  expect(diffMembers([member], [again])).toEqual({ joined: [again], left: [member], updated: [] })
})
