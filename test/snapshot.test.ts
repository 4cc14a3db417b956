import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Member } from '../src/member.js'
import { sameMembers, snapshotAfter, snapshotOf, type Change, type Snapshot } from '../src/snapshot.js'

const member = (id: string, token: number, data = ''): Member => ({
  id,
  token,
  data,
  registeredAt: '2026-01-01',
})

test('promise 2: applying the changes gives what reading everything gives', () => {
  // Each step registers, changes or removes one of a few ids, as the database would.
  const steps = fc.array(fc.tuple(fc.constantFrom('a', 'b', 'c', 'd'), fc.constantFrom('toggle', 'x', 'y')))
  fc.assert(
    fc.property(steps, fc.nat(3), (steps, chunk) => {
      const table = new Map<string, Member>()
      let snapshot: Snapshot = snapshotOf(0, [])
      let revision = 0
      let changes: Change[] = []
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
          snapshot = snapshotAfter(snapshot, revision, changes)
          changes = []
        }
      }
      snapshot = snapshotAfter(snapshot, revision, changes)
      const all = [...table.values()].sort((a, b) => a.token - b.token)
      expect(snapshot.members).toEqual(all)
      expect(snapshot.revision).toBe(revision)
      expect(snapshotOf(revision, all, snapshot).members.every((m, n) => m === snapshot.members[n])).toBe(
        true,
      )
    }),
  )
})

test('contract: a change that names another registration of the id is not applied', () => {
  const before = snapshotOf(5, [member('a', 5)])
  const after = snapshotAfter(before, 7, [
    { kind: 'left', member: member('a', 3) },
    { kind: 'updated', member: member('a', 3, 'old') },
  ])
  expect(after.members).toEqual([member('a', 5)])
  expect(after.members[0]).toBe(before.members[0])
})

test('contract: a member that joined twice is there once', () => {
  const before = snapshotOf(1, [member('a', 1)])
  expect(snapshotAfter(before, 2, [{ kind: 'joined', member: member('a', 1) }]).members).toHaveLength(1)
})

test('contract: snapshots, their lists and their members are frozen', () => {
  const snapshot = snapshotAfter(snapshotOf(1, [member('a', 1)]), 2, [
    { kind: 'joined', member: member('b', 2) },
  ])
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
