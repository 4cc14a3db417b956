import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { size } from '../support/size.js'
import { mutated, MUTATIONS } from './mutations.js'
import { run } from './run.js'
import { Schedule } from './schedule.js'

const MINUTES = size(0.4, 0.2)
const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32))

test('promises 1 to 4, 6 to 8, 11 to 13 and 16: processes and a model of what they want agree, through everything that a schedule does to them', async () => {
  const history = await run({ seed, minutes: MINUTES })
  expect(history.total('checks'), `seed ${seed}`).toBeGreaterThan(0)
}, 240_000)

test('contract: a schedule follows from its seed alone', () => {
  const [one, other, different] = [new Schedule(7), new Schedule(7), new Schedule(8)]
  for (let round = 0; round < 5; round++) {
    const planned = one.next()
    expect(other.next()).toEqual(planned)
    expect(different.next()).not.toEqual(planned)
  }
})

test.each(MUTATIONS)('contract: the code can still be broken so that $breaks', (mutation) => {
  const text = readFileSync(new URL(`../../${mutation.file}`, import.meta.url), 'utf8')
  expect(mutated(mutation, text)).not.toBe(text)
})
