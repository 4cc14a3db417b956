/**
 * Who owns a key: weighted rendezvous hashing. Pure: no clock, no chance, no state.
 *
 * Each member draws a number for each key, from the hashes of both, and the highest number owns the key. So if a member
 * leaves, only its keys get other owners. docs/decisions/14-draws-not-points.md says why there are no points on a circle.
 *
 * @module pg-membership/ring
 */
import type { Member } from '../api/member.js'
import { checkOptions, refuse } from '../kit/options.js'
import { drawOf, scoreOf, seedsOf } from './draws.js'
import { checkedWeight } from './weight.js'

/** How members are placed on a ring. */
export interface RingOptions<M> {
  /**
   * What places a member on the ring. Default: its id, which is new after each restart of a process. Give something
   * that survives a restart, such as a host name, to keep keys in place across deploys. Of members with one key, that
   * with the highest id (of the library's ids: the one made last) takes the place; the others own nothing until it
   * is gone.
   */
  readonly key?: (member: M) => string
  /** Its share of the keys, relative to the others': any finite number from 0. Default 1. 0: it owns nothing (draining). */
  readonly weight?: (member: M) => number
}

/**
 * The owners of keys, among some members. Immutable. It depends on the keys and weights of the members only, and not on
 * their order: every process computes the same owners, also after a restart.
 *
 * If a member leaves, its keys get other owners, and no other key does. If its weight changes, keys move only to it, or
 * only away from it. To make a ring takes some microseconds for each member; to ask it takes one, and some nanoseconds
 * for each member.
 *
 * @throws RangeError when a weight is negative, NaN or infinite. TypeError when a weight is not a number, or a key or
 * an id is not a string. OptionError for an option that does not exist, or is not a function. What `key` and `weight`
 * throw.
 */
export class Ring<M extends Pick<Member, 'id'>> {
  /** How many members own anything. */
  readonly size: number
  /** The heaviest first, and then by key: of equal draws, the first counts. */
  readonly #members: readonly M[]
  readonly #weights: Float64Array
  /** Two of each member. */
  readonly #seeds: Int32Array

  constructor(members: Iterable<M>, options: RingOptions<M> = {}) {
    checkOptions('Ring', options, ['key', 'weight'])
    const { key = ({ id }: M) => id, weight: weigh = () => 1 } = options
    if (typeof key !== 'function') refuse('key', key, 'be a function')
    if (typeof weigh !== 'function') refuse('weight', weigh, 'be a function')
    const places = new Map<string, { key: string; weight: number; member: M }>()
    for (const member of members) {
      const weight = checkedWeight(weigh(member))
      const place = { key: text('The key of a member', key(member)).toWellFormed(), weight, member }
      const rival = places.get(place.key)?.member.id ?? ''
      if (weight > 0 && text('The id of a member', member.id) >= rival) places.set(place.key, place)
    }
    const sorted = [...places.values()].sort((a, b) => b.weight - a.weight || (a.key < b.key ? -1 : 1))
    this.#members = sorted.map(({ member }) => member)
    this.#weights = Float64Array.from(sorted, ({ weight }) => weight)
    this.#seeds = Int32Array.from(sorted.flatMap((place) => seedsOf(place.key)))
    this.size = sorted.length
  }

  /** Who owns this key, which may be any string; undefined when nobody owns anything. @throws TypeError for no string. */
  owner(key: string): M | undefined {
    const [one, two] = seedsOf(text('A key', key))
    const [weights, seeds] = [this.#weights, this.#seeds]
    let best = -Infinity
    let owner = -1
    for (let n = 0; n < weights.length;) {
      const weight = weights[n] ?? 0
      let highest = -1
      let at = n
      // Among equal weights the highest draw wins: a score, which takes longer, is needed once for each weight.
      for (; n < weights.length && weights[n] === weight; n++) {
        const draw = drawOf(seeds[2 * n] ?? 0, seeds[2 * n + 1] ?? 0, one, two)
        if (draw <= highest) continue
        highest = draw
        at = n
      }
      const score = scoreOf(highest, weight)
      if (score <= best) continue
      best = score
      owner = at
    }
    return this.#members[owner]
  }

  /**
   * The first `count` owners of this key, all different, `owner(key)` first; fewer when there are fewer. Each of them is
   * who would own the key if those before it left.
   *
   * @throws RangeError when `count` is not an integer from 0, nor Infinity. TypeError when the key is not a string.
   */
  owners(key: string, count: number): M[] {
    if (!(count >= 0 && (Number.isInteger(count) || count === Infinity))) {
      throw new RangeError(`The count of owners must be an integer from 0, not ${String(count)}`)
    }
    const [one, two] = seedsOf(text('A key', key))
    const scores = this.#weights.map((weight, n) =>
      scoreOf(drawOf(this.#seeds[2 * n] ?? 0, this.#seeds[2 * n + 1] ?? 0, one, two), weight),
    )
    // Few are asked for among many: numbers sort much faster than members.
    const least = scores.toSorted()[Math.max(0, this.size - count)] ?? Infinity
    const scored = this.#members.map((member, n) => ({ member, score: scores[n] ?? 0 }))
    const first = scored.filter(({ score }) => score >= least).sort((a, b) => b.score - a.score)
    return first.slice(0, count).map(({ member }) => member)
  }
}

function text(what: string, value: unknown): string {
  if (typeof value === 'string') return value
  throw new TypeError(`${what} must be a string, not ${typeof value}`)
}
