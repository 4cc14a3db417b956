import { Ring, type RingOptions } from './ring.js'
import { checkedWeight } from './weight.js'

/** Members to choose from: by key, or by chance. */
export class Choice<M extends { readonly id: string }> {
  readonly ring: Ring<M>
  readonly #members: readonly M[]
  /** For each member, its weight and the weights of those before it, in units of the highest weight. */
  readonly #sums: readonly number[]

  constructor(members: readonly M[], options: RingOptions<M>) {
    this.ring = new Ring(members, options)
    const { weight = () => 1 } = options
    const weighed = members.map((member) => ({ member, weight: checkedWeight(weight(member)) }))
    const some = weighed.filter((one) => one.weight > 0)
    const highest = some.reduce((most, one) => Math.max(most, one.weight), 0)
    let sum = 0
    this.#members = some.map(({ member }) => member)
    this.#sums = some.map((one) => (sum += one.weight / highest))
  }

  pick(): M | undefined {
    const at = Math.random() * (this.#sums.at(-1) ?? 0)
    // Where rounding left nobody, -1 takes the last.
    return this.#members.at(this.#sums.findIndex((sum) => sum > at))
  }
}
