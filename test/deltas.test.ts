import { describe, expect, test } from 'vitest'
import { Early, Passed } from '../src/engine/deltas.js'
import type { Delta, Position } from '../src/engine/store.js'

const at = (revision: number, history = 'one'): Position => ({ revision, stamp: `${history} ${revision}` })

function delta(from: number, to: number, { history = 'one', data = '' } = {}): [Delta, Position] {
  const member = { id: 'a', token: 1, data, registeredAt: '2026-01-01' }
  const begin = at(from, history)
  return [{ from: begin, to: at(to, history), changes: [{ kind: 'updated', member }] }, begin]
}

describe('promise 3: a delta before its turn', () => {
  test('is taken at the position where it begins, revision and stamp, and once', () => {
    const early = new Early()
    expect(early.add(...delta(3, 4))).toBe(true)
    expect(early.next(at(2))).toBeUndefined()
    expect(early.next(at(3))?.to).toEqual(at(4))
    expect(early.next(at(3))).toBeUndefined()
    expect(early.size).toBe(0)
  })

  test('of another history is never taken', () => {
    const early = new Early()
    early.add(...delta(3, 4, { history: 'other' }))
    expect(early.next(at(3))).toBeUndefined()
    expect(early.next(at(4))).toBeUndefined()
    expect(early.size).toBe(0)
  })

  test('that leads no further is dropped', () => {
    const early = new Early()
    early.add(...delta(3, 5))
    early.add(...delta(7, 8))
    expect(early.next(at(5))).toBeUndefined()
    expect(early.size).toBe(1)
  })

  test('that a refresh should have led past is dropped, and no later one', () => {
    const early = new Early()
    early.add(...delta(3, 5))
    const { count } = early
    early.add(...delta(7, 8))
    early.dropUpTo(count)
    expect(early.size).toBe(1)
    expect(early.next(at(7))?.to).toEqual(at(8))
  })
})

test('promise 11: of deltas before their turn, a hundred are kept, and four million characters', () => {
  const many = new Early()
  for (let n = 0; n < 100; n++) expect(many.add(...delta(n + 1, n + 2))).toBe(true)
  expect(many.add(...delta(200, 201))).toBe(false)
  const large = new Early()
  const data = 'x'.repeat(1_048_576)
  const taken = [1, 2, 3, 4, 5].map((n) => large.add(...delta(n, n + 1, { data })))
  expect(taken).toEqual([true, true, true, false, false])
  // What is taken makes room.
  large.next(at(1))
  expect(large.add(...delta(9, 10, { data }))).toBe(true)
})

test('promise 3: a position is passed when the snapshot was there, in this history; far behind, only the revision counts', () => {
  const passed = new Passed()
  for (let revision = 1; revision <= 1_500; revision += 2) passed.add(at(revision))
  expect(passed.has(at(1_499))).toBe(true)
  expect(passed.includes(at(1_499))).toBe(true)
  expect(passed.includes(at(1_499, 'other'))).toBe(false)
  expect(passed.includes(at(1_500))).toBe(false)
  expect(passed.includes(at(1_498))).toBe(true)
  expect(passed.has(at(1_498))).toBe(false)
  for (let revision = 1_501; revision <= 4_000; revision += 1) passed.add(at(revision))
  expect(passed.has(at(3_001))).toBe(true)
  expect(passed.has(at(3_000))).toBe(false)
  expect(passed.includes(at(3_000, 'other'))).toBe(true)
  passed.clear()
  expect(passed.includes(at(1))).toBe(false)
})
