/**
 * Sends questions to the database together: when the connection is free, all questions that wait for it go in one
 * statement. A question never waits for more questions to come.
 */
export interface TogetherOptions<Db, Q, A> {
  /** Waits for the connection, then calls `use` with it. */
  readonly connection: (use: (db: Db) => Promise<void>) => Promise<void>
  /** Returns the answers, in the order of the questions. */
  readonly ask: (db: Db, questions: readonly Q[]) => Promise<readonly A[]>
  /** The part of one statement that a question fills, from 0 to 1. */
  readonly share: (question: Q) => number
  /** True if a single question may have caused the error: each is then asked alone, so that the others get answers. */
  readonly mayConcernOne: (error: unknown) => boolean
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
        await this.#options.connection((db) => this.#askAll(db, this.#takeBatch()))
      } catch (error) {
        // No connection could be opened.
        for (const { reject } of this.#waiting.splice(0)) reject(error)
      }
    }
    this.#isRunning = false
  }

  /** Takes out the questions that fit into one statement; at least one. */
  #takeBatch(): Waiting<Q, A>[] {
    let [count, taken] = [0, 0]
    for (const { question } of this.#waiting) {
      taken += this.#options.share(question)
      if (count > 0 && taken > 1) break
      count += 1
    }
    return this.#waiting.splice(0, count)
  }

  async #askAll(db: Db, batch: readonly Waiting<Q, A>[]): Promise<void> {
    try {
      const answers = await this.#options.ask(
        db,
        batch.map(({ question }) => question),
      )
      if (answers.length !== batch.length) throw new Error('The database left out an answer')
      for (const [n, answer] of answers.entries()) batch[n]?.resolve(answer)
    } catch (error) {
      if (batch.length > 1 && this.#options.mayConcernOne(error)) {
        for (const one of batch) await this.#askAll(db, [one])
      } else for (const { reject } of batch) reject(error)
    }
  }
}
