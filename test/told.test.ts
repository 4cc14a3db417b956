import { expect, test } from 'vitest'
import { lostOf, Told } from '../src/engine/told.js'

const at = (revision: number, stamp: string) => ({ revision, stamp })
const [a, b, c] = [at(1, 'a'), at(2, 'b'), at(3, 'c')]

test.each([
  ['is there', at(3, 'c'), undefined, undefined],
  ['has been passed, as the log shows', at(9, 'z'), 'c', undefined],
  ['has been passed, and the log was trimmed', at(9, 'z'), undefined, undefined],
  ['has not been reached', at(2, 'b'), undefined, c],
  ['has another stamp', at(3, 'another'), undefined, c],
  ['has another stamp in the log', at(9, 'z'), 'another', c],
] as const)('promise 3: a position that was told and that %s', (_what, head, logged, lost) => {
  expect(lostOf([c], head, () => logged)).toBe(lost)
})

test('promise 3: only what was told before the question has to be in its answer', () => {
  const told = new Told(b)
  const look = told.look()
  told.add(c)
  expect(lostOf(look.told, b)).toBeUndefined()
  expect(lostOf(told.look().told, b)).toEqual(c)
})

test('promise 3: a position is not forgotten for another one, which may be of another history', () => {
  const told = new Told(b)
  told.add(c)
  told.add(a)
  told.add(at(2, 'another'))
  expect(told.look().told).toEqual([b, c, a, at(2, 'another')])
})

test('promise 3: where a delta leads from one to another, the later one stands for both', () => {
  const told = new Told(b)
  told.add(at(4, 'd'), c)
  told.add(c, b)
  expect(told.look().told).toEqual([at(4, 'd'), c])
  told.add(at(4, 'd'), c)
  expect(told.look().told).toEqual([at(4, 'd')])
})

test('promise 3: after a query only what was told since counts, and the position that it found', () => {
  const told = new Told(b)
  const look = told.look()
  told.add(at(7, 'told meanwhile'))
  told.settle(look, c)
  expect(told.look().told).toEqual([at(7, 'told meanwhile'), c])
  told.restart(a)
  expect(told.look().told).toEqual([a])
})

test('promise 11: of many positions the first and the newest are kept', () => {
  const told = new Told(a)
  for (let revision = 2; revision <= 100; revision++) told.add(at(revision, String(revision)))
  const revisions = told.look().told.map(({ revision }) => revision)
  expect(revisions).toEqual([1, 94, 95, 96, 97, 98, 99, 100])
})
