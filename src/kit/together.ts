/**
 * Questions that go to the database together: all that wait for the connection when it is free, in one statement.
 * One question alone never waits for others.
 */
export interface TogetherOptions<Db, Q, A> {
  /** Waits for the connection, and has it meanwhile. */
  readonly connection: (use: (db: Db) => Promise<void>) => Promise<void>
  /** The answers, in the order of the questions. */
  readonly ask: (db: Db, questions: readonly Q[]) => Promise<readonly A[]>
  /** How much of a statement a question takes, of 1. */
  readonly share: (question: Q) => number
  /** After such an error each is asked alone: what is wrong with one must not hold up the others. */
  readonly isOfOne: (error: unknown) => boolean
}

interface Waiting<Q, A> {
  readonly question: Q
  readonly resolve: (answer: A) => void
  readonly reject: (error: unknown) => void
}

export class Together<Db, Q, A> {
  readonly #options: TogetherOptions<Db, Q, A>
  readonly #waiting: Waiting<Q, A>[] = []
  #isRunning = false

  constructor(options: TogetherOptions<Db, Q, A>) {
    this.#options = options
  }

  ask(question: Q): Promise<A> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ question, resolve, reject })
      if (!this.#isRunning) void this.#run()
    })
  }

  async #run(): Promise<void> {
    this.#isRunning = true
    while (this.#waiting.length > 0) {
      try {
        await this.#options.connection((db) => this.#askAll(db, this.#next()))
      } catch (error) {
        // The connection was not to be had.
        for (const { reject } of this.#waiting.splice(0)) reject(error)
      }
    }
    this.#isRunning = false
  }

  /** Those that fit into one statement; at least one. */
  #next(): Waiting<Q, A>[] {
    let [count, taken] = [0, 0]
    for (const { question } of this.#waiting) {
      taken += this.#options.share(question)
      if (count > 0 && taken > 1) break
      count += 1
    }
    return this.#waiting.splice(0, count)
  }

  async #askAll(db: Db, some: readonly Waiting<Q, A>[]): Promise<void> {
    try {
      const answers = await this.#options.ask(
        db,
        some.map(({ question }) => question),
      )
      if (answers.length !== some.length) throw new Error('The database left out an answer')
      for (const [n, answer] of answers.entries()) some[n]?.resolve(answer)
    } catch (error) {
      if (some.length > 1 && this.#options.isOfOne(error)) {
        for (const one of some) await this.#askAll(db, [one])
      } else for (const { reject } of some) reject(error)
    }
  }
}
