/** The values of a pool that this process has at hand, and how it takes more of them. */
import { randomUUID } from 'node:crypto'
import type { Lease } from '../api/lease.js'
import { untilAnswered } from '../kit/asking.js'
import type { Taken } from '../kit/ports.js'
import type { SharedPool } from './nonce.js'

interface AtHandOptions {
  /** Of the membership. */
  readonly id: string
  readonly size: number
  /** Aborts when nothing more is to be taken. */
  readonly closing: AbortSignal
}

/** Each question has a batch of its own. Of more lost ones than this, the oldest are left to the end of the registration. */
const MOST_LOST = 1_000

export class AtHand {
  readonly #shared: SharedPool
  readonly #options: AtHandOptions
  /** Of the registration that took what is here. */
  #token = 0
  #free: Taken[] = []
  /** Batches that were asked for, and whose answers have not come. The next question takes these values over. */
  #lost: string[] = []
  #refilling: { readonly signal: AbortSignal; readonly found: Promise<number> } | undefined
  /** The question under way. It goes on when nobody waits for it any more. */
  #question: Promise<unknown> | undefined

  constructor(shared: SharedPool, options: AtHandOptions) {
    this.#shared = shared
    this.#options = options
  }

  count(token: number | undefined): number {
    return token === this.#token ? this.#free.length : 0
  }

  /** One that is here; undefined: refill first. When half are gone, more are fetched. */
  take(lease: Lease): Taken | undefined {
    this.#begin(lease.token)
    const taken = this.#free.shift()
    if (taken !== undefined && this.#free.length * 2 <= this.#options.size) {
      // The take that finds nothing here gets the error.
      this.refill(lease).catch(() => undefined)
    }
    return taken
  }

  /** Resolves with how many came. Rejects with the reason of the lease's end, or an error that waiting does not cure. */
  refill({ token, signal }: Lease): Promise<number> {
    if (this.#refilling?.signal === signal) return this.#refilling.found
    const found = this.#refill(token, signal).finally(() => {
      if (this.#refilling?.signal === signal) this.#refilling = undefined
    })
    this.#refilling = { signal, found }
    return found
  }

  /** What is here, and what may be; nothing is here any more. */
  async empty(): Promise<{ token: number; taken: readonly Taken[]; lost: readonly string[] }> {
    await this.#quiet()
    const [taken, lost] = [this.#free, this.#lost]
    this.#free = []
    this.#lost = []
    return { token: this.#token, taken, lost }
  }

  #refill(token: number, signal: AbortSignal): Promise<number> {
    const { cluster } = this.#shared
    const { closing } = this.#options
    return untilAnswered(
      async (over) => {
        // If the answer to an older question comes, its batch is not lost.
        await this.#quiet()
        over.throwIfAborted()
        closing.throwIfAborted()
        const asked = this.#ask(token)
        this.#question = asked.catch(() => undefined)
        return await asked
      },
      { cluster, ends: [signal, closing] },
    )
  }

  async #ask(token: number): Promise<number> {
    const { port, name } = this.#shared
    const { id, size } = this.#options
    const [batch, lost] = [randomUUID(), this.#lost]
    this.#lost = [...lost, batch].slice(-MOST_LOST)
    const values = await port.take(name, { id, token }, batch, lost, Math.max(1, size - this.#free.length))
    if (values === undefined) throw new Error('The registration is not current')
    if (token === this.#token) {
      this.#lost = this.#lost.filter((other) => other !== batch)
      this.#free.push(...values.map((value) => ({ value, batch })))
    }
    return values.length
  }

  /** What a registration has taken goes with it. */
  #begin(token: number): void {
    if (token === this.#token) return
    this.#token = token
    this.#free = []
    this.#lost = []
  }

  async #quiet(): Promise<void> {
    while (this.#question !== undefined) {
      const question = this.#question
      await question
      if (this.#question === question) this.#question = undefined
    }
  }
}
