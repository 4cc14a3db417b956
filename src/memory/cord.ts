import type { Wires } from '../engine/cluster-core.js'
import { StoreError } from '../engine/store-error.js'

/** Between a cluster and its world. */
export class Cord {
  wires: Wires | undefined
  #whole = true

  cut(): void {
    if (!this.#whole) return
    this.#whole = false
    this.wires?.distrust()
    this.wires?.hearing(false)
    this.wires?.reconnect()
  }

  join(): void {
    this.#whole = true
    this.wires?.hearing(true)
    this.wires?.reconnect()
  }

  get isWhole(): boolean {
    return this.#whole
  }

  async pull(): Promise<void> {
    // As a database answers: not in the caller's turn.
    await Promise.resolve()
    if (!this.#whole) throw new StoreError('nobody knows', new Error('The cluster is cut off from its world'))
  }
}
