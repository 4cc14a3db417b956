import type { Callbacks } from '../engine/cluster-core.js'
import { StoreError } from '../engine/store-error.js'

/** The link between a cluster and its world, which a test can cut. */
export class Cord {
  callbacks: Callbacks | undefined
  #whole = true

  cut(): void {
    if (!this.#whole) return
    this.#whole = false
    this.callbacks?.distrust()
    this.callbacks?.hearing(false)
    this.callbacks?.recover()
  }

  join(): void {
    this.#whole = true
    this.callbacks?.hearing(true)
    this.callbacks?.recover()
  }

  get isWhole(): boolean {
    return this.#whole
  }

  async pull(): Promise<void> {
    // Like a database, it never answers in the same tick.
    await Promise.resolve()
    if (!this.#whole) throw new StoreError('nobody knows', new Error('The cluster is cut off from its world'))
  }
}
