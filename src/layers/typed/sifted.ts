import { iteratorOf } from '../../kit/steps.js'

/** The values of an iterator as `sift` makes them, without those for which it answers undefined. Lazy, like the iterator. */
export function sifted<A, B extends object>(
  inner: AsyncIterableIterator<A>,
  sift: (value: A) => B | undefined,
): AsyncIterableIterator<B> {
  let waiting = 0
  let last: Promise<unknown> = Promise.resolve()
  const step = async (): Promise<IteratorResult<B, undefined>> => {
    for (;;) {
      const result = await inner.next()
      if (result.done === true) return { done: true, value: undefined }
      const value = sift(result.value)
      if (value !== undefined) return { done: false, value }
    }
  }
  return iteratorOf({
    // The first of several steps begins at once: the iterator subscribes then. The others keep their order.
    next: () => {
      const next = waiting === 0 ? step() : last.then(step, step)
      waiting += 1
      const isOver = (): number => (waiting -= 1)
      last = next.then(isOver, isOver)
      return next
    },
    end: () => void inner.return?.(),
  })
}
