import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Member } from '../src/api/member.js'
import type { Snapshot } from '../src/api/snapshot.js'
import { sameMembers, snapshotAfter, snapshotOf } from '../src/engine/snapshot.js'
import type { MemberChange, Position } from '../src/engine/store.js'

const at = (revision: number): Position => ({ revision, stamp: `stamp ${String(revision)}` })

const member = (id: string, token: number, data = ''): Member => ({
  id,
  token,
  data,
  registeredAt: '2026-01-01',
})

function after(previous: Snapshot, revision: number, changes: readonly MemberChange[]): Snapshot {
  const snapshot = snapshotAfter(previous, at(revision), changes)
  if (snapshot === undefined) throw new Error('a change fits nothing')
  return snapshot
}

test('promise 2: applying the changes gives what reading everything gives', () => {
  // Each step registers, changes or removes one of a few ids, as the database would.
  const steps = fc.array(fc.tuple(fc.constantFrom('a', 'b', 'c', 'd'), fc.constantFrom('toggle', 'x', 'y')))
  fc.assert(
    fc.property(steps, fc.nat(3), (steps, chunk) => {
      const table = new Map<string, Member>()
      let snapshot: Snapshot = snapshotOf(at(0), [])
      let revision = 0
      let changes: MemberChange[] = []
      for (const [id, action] of steps) {
        const present = table.get(id)
        revision += 1
        if (action !== 'toggle' && present !== undefined) {
          table.set(id, { ...present, data: action })
          changes.push({ kind: 'updated', member: { ...present, data: action } })
        } else if (present === undefined) {
          table.set(id, member(id, revision))
          changes.push({ kind: 'joined', member: member(id, revision) })
        } else {
          table.delete(id)
          changes.push({ kind: 'left', member: present })
        }
        if (changes.length > chunk) {
          snapshot = after(snapshot, revision, changes)
          changes = []
        }
      }
      snapshot = after(snapshot, revision, changes)
      const all = [...table.values()].sort((a, b) => a.token - b.token)
      expect(snapshot.members).toEqual(all)
      expect(snapshot.revision).toBe(revision)
      expect(snapshotOf(at(revision), all, snapshot).members.every((m, n) => m === snapshot.members[n])).toBe(
        true,
      )
    }),
  )
})

test.each<[string, MemberChange[]]>([
  ['whoever joins is there', [{ kind: 'joined', member: member('b', 5) }]],
  ['whoever joins is there as an older registration', [{ kind: 'joined', member: member('b', 9) }]],
  ['the token of whoever joins is taken', [{ kind: 'joined', member: member('x', 5) }]],
  ['whoever left is not there', [{ kind: 'left', member: member('x', 4) }]],
  ['whoever left is there as a newer registration', [{ kind: 'left', member: member('b', 3) }]],
  ['the registration that left is another member', [{ kind: 'left', member: member('c', 5) }]],
  ['whoever changes is not there', [{ kind: 'updated', member: member('x', 4, 'new') }]],
  ['whoever changes is there as a newer registration', [{ kind: 'updated', member: member('b', 3, 'new') }]],
  ['whoever changes has the token of another', [{ kind: 'updated', member: member('c', 5, 'new') }]],
  [
    'somebody joins twice',
    [
      { kind: 'joined', member: member('x', 8) },
      { kind: 'joined', member: member('x', 9) },
    ],
  ],
  [
    'somebody leaves twice',
    [
      { kind: 'left', member: member('b', 5) },
      { kind: 'left', member: member('b', 5) },
    ],
  ],
])('promise 2: a change that fits nothing makes no snapshot: %s', (_what, changes) => {
  const before = snapshotOf(at(7), [member('a', 2), member('b', 5), member('c', 7)])
  expect(snapshotAfter(before, at(9), changes)).toBeUndefined()
  const fitting: MemberChange = { kind: 'joined', member: member('d', 8) }
  expect(snapshotAfter(before, at(10), [fitting, ...changes])).toBeUndefined()
  expect(after(before, 8, [fitting]).members).toHaveLength(4)
})

test('contract: somebody who left may join again, and leave, in one delta', () => {
  const before = snapshotOf(at(1), [member('a', 1)])
  const again = after(before, 5, [
    { kind: 'left', member: member('a', 1) },
    { kind: 'joined', member: member('a', 3) },
    { kind: 'left', member: member('a', 3) },
    { kind: 'joined', member: member('a', 5, 'here') },
  ])
  expect(again.members).toEqual([member('a', 5, 'here')])
})

test('contract: snapshots, their lists and their members are frozen', () => {
  const snapshot = after(snapshotOf(at(1), [member('a', 1)]), 2, [{ kind: 'joined', member: member('b', 2) }])
  expect([snapshot, snapshot.members, ...snapshot.members].every(Object.isFrozen)).toBe(true)
  expect(snapshot.get('b')).toBe(snapshot.members[1])
  expect(snapshot.get('c')).toBeUndefined()
})

test('contract: lists are the same when their members look the same', () => {
  const list = [member('a', 1), member('b', 2)]
  expect(sameMembers(list, [member('a', 1), member('b', 2)])).toBe(true)
  expect(sameMembers(list, [member('a', 1), member('b', 2, 'x')])).toBe(false)
  expect(sameMembers(list, [member('a', 1)])).toBe(false)
  expect(sameMembers(list, [member('a', 1), member('b', 3)])).toBe(false)
})
