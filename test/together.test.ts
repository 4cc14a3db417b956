import { expect, test } from 'vitest'
import { Together, type TogetherOptions } from '../src/kit/together.js'

type Options = TogetherOptions<string, number, number>

/** Asks a database that doubles numbers; `gate` holds the connection. */
function doubling(more: Partial<Options> = {}): {
  readonly together: Together<string, number, number>
  readonly asked: (readonly number[])[]
} {
  const asked: (readonly number[])[] = []
  const together = new Together<string, number, number>({
    connection: async (use) => {
      await Promise.resolve()
      await use('the connection')
    },
    ask: async (db, questions) => {
      expect(db).toBe('the connection')
      asked.push(questions)
      await Promise.resolve()
      if (questions.includes(13)) throw new Error('no thirteen')
      return questions.map((question) => 2 * question)
    },
    share: () => 0.25,
    mayConcernOne: () => true,
    ...more,
  })
  return { together, asked }
}

test('promise 11: all that wait for the connection are asked together, as many as fit, and each gets its own answer', async () => {
  const { together, asked } = doubling()
  expect(await Promise.all([1, 2, 3, 4, 5, 6].map((n) => together.ask(n)))).toEqual([2, 4, 6, 8, 10, 12])
  expect(asked).toEqual([
    [1, 2, 3, 4],
    [5, 6],
  ])
  expect(await together.ask(7)).toBe(14)
  const large = doubling({ share: () => 7 })
  expect(await Promise.all([1, 2].map((n) => large.together.ask(n)))).toEqual([2, 4])
  expect(large.asked).toEqual([[1], [2]])
})

test('promise 7: what is wrong with one of them is told to that one, and the others are answered', async () => {
  const { together, asked } = doubling()
  const all = await Promise.allSettled([1, 13, 3].map((n) => together.ask(n)))
  expect(all.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
  expect(asked).toEqual([[1, 13, 3], [1], [13], [3]])
})

test('promise 11: what is wrong with the database is told to all, at once', async () => {
  const { together, asked } = doubling({ mayConcernOne: () => false })
  const all = await Promise.allSettled([1, 13, 3].map((n) => together.ask(n)))
  expect(all.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected'])
  expect(asked).toHaveLength(1)
  expect(await together.ask(4)).toBe(8)
})

test('promise 11: while the connection is not to be had, all who wait are told, and the next ones try again', async () => {
  let isThere = false
  const { together } = doubling({
    connection: async (use) => {
      await Promise.resolve()
      if (!isThere) throw new Error('away')
      await use('the connection')
    },
  })
  const all = await Promise.allSettled([1, 2].map((n) => together.ask(n)))
  expect(all.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
  isThere = true
  expect(await together.ask(3)).toBe(6)
})
