/** The steps of an asynchronous iterator: `next()` calls that wait for their values, answered in their order. */

interface Step<T> {
  readonly resolve: (result: IteratorResult<T, undefined>) => void
  readonly reject: (error: Error) => void
}

export class Steps<T> {
  readonly #waiting: Step<T>[] = []
  #ended = false

  /** How many wait. */
  get waiting(): number {
    return this.#waiting.length
  }

  next(): Promise<IteratorResult<T, undefined>> {
    if (this.#ended) return Promise.resolve({ done: true, value: undefined })
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }))
  }

  /** To the one that waits longest; there must be one. */
  give(value: T): void {
    this.#waiting.shift()?.resolve({ done: false, value })
  }

  /** Rejects the one that waits longest. False: nobody waits. */
  fail(error: Error): boolean {
    const step = this.#waiting.shift()
    step?.reject(error)
    return step !== undefined
  }

  /** Those that wait, and all that come. */
  end(): void {
    this.#ended = true
    for (const step of this.#waiting.splice(0)) step.resolve({ done: true, value: undefined })
  }
}

/** What a loop breaks, or an error in it, ends. */
export function iteratorOf<T>(steps: {
  readonly next: () => Promise<IteratorResult<T, undefined>>
  readonly end: () => void
}): AsyncIterableIterator<T> {
  return {
    next: steps.next,
    return: () => {
      steps.end()
      return Promise.resolve({ done: true, value: undefined })
    },
    throw: (error) => {
      steps.end()
      return Promise.reject(error instanceof Error ? error : new Error(String(error)))
    },
    [Symbol.asyncIterator]() {
      return this
    },
  }
}
