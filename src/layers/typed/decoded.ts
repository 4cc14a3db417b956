/**
 * Members as they are decoded: each value once, so that typed members keep their identity as long as members do.
 *
 * `onInvalid` hears of each value once, whoever meets it first: a snapshot, or a change feed. For that the last bad
 * value of each member is kept, until a snapshot shows that it is over.
 */
import type { Change } from '../../api/change.js'
import type { Member } from '../../api/member.js'
import type { Snapshot } from '../../api/snapshot.js'
import type { Codec, TypedMember } from './types.js'

type OnInvalid = (member: Member, error: unknown) => unknown
type Told = Map<string, { readonly member: Member; readonly revision: number }>

export class Decoded<T> {
  readonly #codec: Codec<T>
  readonly #onInvalid: OnInvalid
  readonly #snapshot: () => Snapshot | undefined
  readonly #known = new WeakMap<Member, { readonly typed: TypedMember<T> | undefined }>()
  readonly #told: Told = new Map()
  readonly #members = new WeakMap<TypedMember<T>, Member>()
  /** The newest list that was decoded. */
  #newest: { readonly of: readonly Member[]; readonly typed: readonly TypedMember<T>[] } | undefined

  constructor(codec: Codec<T>, onInvalid: OnInvalid, snapshot: () => Snapshot | undefined) {
    this.#codec = codec
    this.#onInvalid = onInvalid
    this.#snapshot = snapshot
  }

  /** The same list as before when the same members could be decoded. */
  list(members: readonly Member[]): readonly TypedMember<T>[] {
    if (this.#newest?.of === members) return this.#newest.typed
    this.#forget()
    const decoded = members.map((member) => this.one(member)).filter((typed) => typed !== undefined)
    // Looked at only now: onInvalid may have asked for the list.
    const before = this.#newest?.typed
    const isSame = before?.length === decoded.length && decoded.every((typed, n) => typed === before[n])
    const typed = isSame ? before : Object.freeze(decoded)
    this.#newest = { of: members, typed }
    return typed
  }

  /** Whether who has seen one of these lists sees nothing new in the other, also if all was decoded again meanwhile. */
  areSame(a: readonly TypedMember<T>[], b: readonly TypedMember<T>[]): boolean {
    const isSame = (one: TypedMember<T>, other: TypedMember<T> | undefined): boolean => {
      const [member, another] = [this.#members.get(one), other && this.#members.get(other)]
      return one === other || (another !== undefined && sameValue(member, another))
    }
    return a.length === b.length && a.every((one, n) => isSame(one, b[n]))
  }

  /** A member of a snapshot. */
  one(member: Member): TypedMember<T> | undefined {
    const known = this.#known.get(member)
    if (known !== undefined) return known.typed
    const typed = this.#decode(member, this.#snapshot()?.revision ?? 0, this.#told)
    this.#known.set(member, { typed })
    return typed
  }

  /** The members of one change feed, which may be about a time long ago. */
  feed(): (change: Change) => TypedMember<T> | undefined {
    const told: Told = new Map()
    return ({ member, revision, kind }) => {
      const present = this.#snapshot()?.get(member.id)
      if (present !== undefined && sameValue(present, member)) return this.one(present)
      // What snapshots are still to show is told for them, too.
      const isAhead = revision > (this.#snapshot()?.revision ?? 0)
      const typed = this.#decode(member, revision, told)
      const last = told.get(member.id)
      if (isAhead && typed === undefined && last !== undefined) this.#told.set(member.id, last)
      if (kind === 'left') told.delete(member.id)
      return typed
    }
  }

  #decode(member: Member, revision: number, told: Told): TypedMember<T> | undefined {
    const { id, token, registeredAt } = member
    try {
      const typed = Object.freeze({ id, data: this.#codec.decode(member.data), token, registeredAt })
      this.#members.set(typed, member)
      return typed
    } catch (error) {
      const isTold = [told, this.#told].some((one) => sameValue(one.get(id)?.member, member))
      told.set(id, { member, revision })
      if (!isTold) this.#tell(member, error)
      return undefined
    }
  }

  /** Whatever the listener does: it must not stop a watch. */
  #tell(member: Member, error: unknown): void {
    try {
      Promise.resolve(this.#onInvalid(member, error)).catch(() => undefined)
    } catch {
      // The trouble of the listener is its own.
    }
  }

  /** Values that are over. */
  #forget(): void {
    const snapshot = this.#snapshot()
    for (const [id, { member, revision }] of this.#told) {
      const isAhead = revision > (snapshot?.revision ?? 0)
      if (!isAhead && !sameValue(snapshot?.get(id), member)) this.#told.delete(id)
    }
  }
}

function sameValue(a: Member | undefined, b: Member): boolean {
  return a?.id === b.id && a.token === b.token && a.data === b.data
}
