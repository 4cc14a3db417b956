/**
 * Requests to members: by key, or to anyone. It asks nobody: all it knows are a cluster's snapshots, and what this
 * process was told of members that failed.
 *
 * @module pg-membership/routing
 */
import type { Member } from '../api/member.js'
import { monotonicMs } from '../kit/clock.js'
import { checkOptions, refuse } from '../kit/options.js'
import { Choice } from './choice.js'
import type { RingOptions } from './ring.js'

/** How members are chosen. */
export type RouterOptions<M> = RingOptions<M>

/**
 * Chooses among the members of the newest snapshot of a cluster, or of a typed view of one. For each snapshot it makes
 * one ring, at the first question; then answers cost microseconds. It starts nothing: until the cluster has a snapshot
 * (`getMembers`, `register`), it knows nobody.
 *
 * What `key` and `weight` throw, the methods throw: read data through `pg-membership/typed`, which leaves out the
 * members whose data is bad.
 *
 * @throws TypeError for a source without `snapshot`, OptionError for bad options.
 */
export class Router<M extends Pick<Member, 'id'> = Member> {
  readonly #source: { readonly snapshot: { readonly members: readonly M[] } | undefined }
  readonly #options: RouterOptions<M>
  /** Until when, by registration. All of them are in the list that was seen last. */
  readonly #ejected = new Map<string, number>()
  #seen: readonly M[] = NOBODY
  #all: Choice<M>
  /** Without the ejected. */
  #good: Choice<M>

  constructor(
    source: { readonly snapshot: { readonly members: readonly M[] } | undefined },
    options: RouterOptions<M> = {},
  ) {
    if (!('snapshot' in Object(source)))
      throw new TypeError('A Router needs a cluster, or a typed view of one')
    checkOptions('Router', options, ['key', 'weight'])
    this.#source = source
    this.#options = { ...options }
    this.#good = this.#all = new Choice(this.#seen, this.#options)
  }

  /**
   * Who owns this key: `Ring.owner` of the newest snapshot, without the ejected while there are others; undefined when
   * nobody owns anything.
   *
   * @throws TypeError for a key that is not a string.
   */
  owner(key: string): M | undefined {
    this.#look()
    return this.#good.ring.owner(key) ?? this.#all.ring.owner(key)
  }

  /**
   * The first `count` owners of this key, all different, `owner(key)` first; fewer when there are fewer. The ejected
   * come last.
   *
   * @throws RangeError when `count` is not an integer from 0, nor Infinity. TypeError for a key that is not a string.
   */
  owners(key: string, count: number): M[] {
    this.#look()
    const good = this.#good.ring.owners(key, count)
    if (this.#good === this.#all || good.length === count) return good
    return [...new Set([...good, ...this.#all.ring.owners(key, Infinity)])].slice(0, count)
  }

  /**
   * Anyone, at random by weight, but none of the ejected while there are others; undefined when all weights are 0, or
   * there is nobody.
   */
  pick(): M | undefined {
    this.#look()
    return this.#good.pick() ?? this.#all.pick()
  }

  /**
   * A request to this member failed: for `forMs` milliseconds, this process gives it nothing that another could do. Its
   * keys go to their next owners meanwhile. Forgotten when the time is over, or when its registration ends. Other
   * processes do not hear of it. `forMs`: a number from 0. A later call never shortens the time.
   *
   * @throws OptionError for a bad `forMs`, TypeError for what is not a member.
   */
  eject(member: M, options: { readonly forMs: number }): void {
    checkOptions('eject', options, ['forMs'])
    const { forMs } = options
    if (typeof forMs !== 'number' || !(forMs >= 0))
      refuse('forMs', forMs, 'be a number of milliseconds from 0')
    const registration = registrationOf(member)
    this.#look()
    if (!this.#seen.some((one) => registrationOf(one) === registration)) return
    const until = monotonicMs() + forMs
    const isNew = !this.#ejected.has(registration)
    this.#ejected.set(registration, Math.max(until, this.#ejected.get(registration) ?? 0))
    if (isNew) this.#chooseGood()
  }

  /** Takes in what has changed since the last question: the snapshot, and the time. */
  #look(): void {
    const members = this.#source.snapshot?.members ?? NOBODY
    const isNew = members !== this.#seen
    if (isNew) {
      this.#good = this.#all = new Choice(members, this.#options)
      this.#seen = members
    }
    if (this.#ejected.size === 0) return
    const now = monotonicMs()
    const present = isNew ? new Set(members.map(registrationOf)) : undefined
    const over = [...this.#ejected].filter(([one, until]) => until <= now || present?.has(one) === false)
    for (const [one] of over) this.#ejected.delete(one)
    if (isNew || over.length > 0) this.#chooseGood()
  }

  #chooseGood(): void {
    const good = this.#seen.filter((member) => !this.#ejected.has(registrationOf(member)))
    this.#good = good.length === this.#seen.length ? this.#all : new Choice(good, this.#options)
  }
}

const NOBODY: readonly never[] = []

/** With the token, where members have one: a member that came back has another, and a new chance. */
function registrationOf(member: { readonly id: string; readonly token?: unknown }): string {
  const { id, token } = member
  if (typeof id !== 'string') throw new TypeError('A member has an id')
  return `${id} ${String(token)}`
}
