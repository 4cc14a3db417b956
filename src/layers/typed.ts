/**
 * Data of a type instead of a string. A view of a cluster: it holds no connection and no members of its own.
 *
 * @module pg-membership/typed
 */
import type { Change } from '../api/change.js'
import type { Cluster } from '../api/cluster.js'
import type { Cursor } from '../api/cursor.js'
import type { Member } from '../api/member.js'
import type { MembershipOptions } from '../api/membership.js'
import type { Snapshot } from '../api/snapshot.js'
import type { Status } from '../api/status.js'
import type { WaitOptions } from '../api/wait-options.js'
import { checkOptions, refuse } from '../kit/options.js'
import { Decoded } from './typed/decoded.js'
import { EncodedMembership } from './typed/membership.js'
import { sifted } from './typed/sifted.js'
import type { Codec, TypedCluster, TypedMember, TypedMembership, TypedSnapshot } from './typed/types.js'

export { json, type StandardSchemaV1 } from './typed/json.js'
export type { Codec, TypedCluster, TypedMember, TypedMembership, TypedSnapshot } from './typed/types.js'

/**
 * The same cluster, read and written as T. A member whose data cannot be decoded is left out, and everything else goes
 * on; `onInvalid` hears of it once for each value. What it throws reaches nobody. Closing the view closes the cluster.
 *
 * Members that did not change keep their identity from snapshot to snapshot.
 *
 * @throws TypeError for what is not a cluster or a codec, OptionError for bad options.
 */
export function typed<T>(
  cluster: Cluster,
  codec: Codec<T>,
  options: { readonly onInvalid?: (member: Member, error: unknown) => void } = {},
): TypedCluster<T> {
  needs('a cluster', cluster, ['createMembership', 'getMembers', 'watchMembers', 'watchChanges', 'close'])
  needs('a codec', codec, ['encode', 'decode'])
  checkOptions('typed', options, ['onInvalid'])
  const { onInvalid = () => undefined } = options
  if (typeof onInvalid !== 'function') refuse('onInvalid', onInvalid, 'be a function')
  return new View(cluster, codec, onInvalid)
}

function needs(what: string, value: unknown, methods: readonly string[]): void {
  const given = Object(value) as Record<string, unknown>
  const missing = methods.find((name) => typeof given[name] !== 'function')
  if (missing !== undefined) throw new TypeError(`typed() needs ${what}, which has a method ${missing}`)
}

class View<T> implements TypedCluster<T> {
  readonly #cluster: Cluster
  readonly #codec: Codec<T>
  readonly #decoded: Decoded<T>
  #newest: { readonly of: Snapshot; readonly typed: TypedSnapshot<T> } | undefined

  constructor(cluster: Cluster, codec: Codec<T>, onInvalid: (member: Member, error: unknown) => unknown) {
    this.#cluster = cluster
    this.#codec = codec
    this.#decoded = new Decoded(codec, onInvalid, () => cluster.snapshot)
  }

  get name(): string {
    return this.#cluster.name
  }

  get status(): Status {
    return this.#cluster.status
  }

  get snapshot(): TypedSnapshot<T> | undefined {
    const { snapshot } = this.#cluster
    if (snapshot === undefined) return undefined
    if (this.#newest?.of === snapshot) return this.#newest.typed
    const typed = this.#typedSnapshot(snapshot)
    // onInvalid may have asked for it.
    if (this.#newest?.of !== snapshot) this.#newest = { of: snapshot, typed }
    return this.#newest.typed
  }

  createMembership(options: Omit<MembershipOptions, 'data'> & { readonly data: T }): TypedMembership<T> {
    checkOptions('createMembership', options, ['data', 'onLost'])
    const { data } = options
    const membership = this.#cluster.createMembership({ ...options, data: this.#codec.encode(data) })
    return new EncodedMembership(membership, this.#codec, data)
  }

  async getMembers(options?: WaitOptions & { readonly fresh?: boolean }): Promise<readonly TypedMember<T>[]> {
    return this.#decoded.list(await this.#cluster.getMembers(options))
  }

  watchMembers(options?: WaitOptions): AsyncIterableIterator<readonly TypedMember<T>[]> {
    let last: readonly TypedMember<T>[] | undefined
    return sifted(this.#cluster.watchMembers(options), (members) => {
      const list = this.#decoded.list(members)
      if (last !== undefined && this.#decoded.areSame(last, list)) return undefined
      return (last = list)
    })
  }

  watchChanges(
    options?: WaitOptions & { readonly since?: Cursor },
  ): AsyncIterableIterator<Omit<Change, 'member'> & { readonly member: TypedMember<T> }> {
    const memberOf = this.#decoded.feed()
    return sifted(this.#cluster.watchChanges(options), (change) => {
      const member = memberOf(change)
      return member && Object.freeze({ ...change, member })
    })
  }

  close(): Promise<void> {
    return this.#cluster.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #typedSnapshot(snapshot: Snapshot): TypedSnapshot<T> {
    const { revision, cursor } = snapshot
    const members = this.#decoded.list(snapshot.members)
    const get = (id: string): TypedMember<T> | undefined => {
      const member = snapshot.get(id)
      return member && this.#decoded.one(member)
    }
    return Object.freeze({ revision, cursor, members, get })
  }
}
