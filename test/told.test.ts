import { expect, test } from 'vitest'
import { Told } from '../src/engine/told.js'

const at = (revision: number, stamp: string) => ({ revision, stamp })

test('promise 3: an answer that has what was told before the question contradicts nothing', () => {
  const told = new Told(at(3, 'c'))
  const look = told.look()
  expect(told.hear(look, at(3, 'c'))).toBe(true)
  expect(told.hear(look, at(5, 'e'))).toBe(true)
  // What was told after the question need not be in its answer.
  expect(told.hear(look, at(4, 'd'))).toBe(true)
  expect(told.look().told).toEqual(at(5, 'e'))
})

test.each([
  ['not as far', at(2, 'b'), undefined],
  ['as far, with another stamp', at(3, 'another'), undefined],
  ['further, in a history that has another stamp there', at(9, 'z'), 'other'],
] as const)('promise 3: an answer that is %s shows that commits are lost', (_what, answer, history) => {
  const told = new Told(at(3, 'c'))
  const look = told.look()
  expect(told.hear(look, answer, history)).toBe(false)
  expect(told.look().told).toEqual(at(3, 'c'))
})

test('promise 3: after a loss only what was told since then counts, and it is the newest', () => {
  const told = new Told(at(3, 'c'))
  const lost = told.look().told ?? at(0, '')
  told.replace(lost, at(1, 'a'))
  expect(told.look().told).toEqual(at(1, 'a'))
  const again = new Told(lost)
  again.add(at(7, 'told meanwhile'))
  again.replace(lost, at(1, 'a'))
  expect(again.look().told).toEqual(at(7, 'told meanwhile'))
})
