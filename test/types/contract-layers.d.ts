/**
 * The public contract of the layers, as published. contract-layers.test-d.ts holds what the package emits against it;
 * a difference between the two is a breaking change.
 */
import type { StandardSchemaV1 } from '@standard-schema/spec'
import type {
  Change,
  Cluster,
  Cursor,
  Member,
  Membership,
  MembershipOptions,
  Status,
  WaitOptions,
} from './contract.js'

// ---------------------------------------------------------------- pg-membership/typed
// Data of a type instead of a string.

export interface Codec<T> {
  encode(value: T): string
  /** Throws for what is not a T. */
  decode(data: string): T
}
/** JSON, validated by any Standard Schema (zod, valibot, arktype) when one is given. */
export declare function json<T>(schema?: StandardSchemaV1<unknown, T>): Codec<T>

export interface TypedMember<T> extends Omit<Member, 'data'> {
  readonly data: T
}
export interface TypedSnapshot<T> {
  readonly revision: number
  readonly cursor: string
  readonly members: readonly TypedMember<T>[]
  get(id: string): TypedMember<T> | undefined
}
/** A Membership whose data is a T. */
export interface TypedMembership<T> extends Omit<Membership, 'data' | 'setData'> {
  readonly data: T
  setData(data: T, options?: WaitOptions): Promise<void>
}
/**
 * The same cluster, read and written as T. A member whose data cannot be decoded is left out, everything
 * else goes on; `onInvalid` hears of it once for each value. Members that did not change keep their
 * identity. Closing it closes the cluster.
 */
export declare function typed<T>(
  cluster: Cluster,
  codec: Codec<T>,
  options?: { readonly onInvalid?: (member: Member, error: unknown) => void },
): TypedCluster<T>
export interface TypedCluster<T> extends AsyncDisposable {
  readonly name: string
  readonly status: Status
  readonly snapshot: TypedSnapshot<T> | undefined
  createMembership(options: Omit<MembershipOptions, 'data'> & { readonly data: T }): TypedMembership<T>
  getMembers(options?: WaitOptions & { readonly fresh?: boolean }): Promise<readonly TypedMember<T>[]>
  watchMembers(options?: WaitOptions): AsyncIterableIterator<readonly TypedMember<T>[]>
  /** Like the cluster's; a change of a member that cannot be decoded is left out. */
  watchChanges(
    options?: WaitOptions & { readonly since?: Cursor },
  ): AsyncIterableIterator<Omit<Change, 'member'> & { readonly member: TypedMember<T> }>
  close(): Promise<void>
}

// ---------------------------------------------------------------- pg-membership/ring
// Who owns a key: consistent hashing, pure and immutable, the same in every process.

export interface RingOptions<M> {
  /** What places a member on the ring. Default its id; give something that survives a restart (a host name) to keep keys in place across deploys. */
  readonly key?: (member: M) => string
  /** Its share of the keys, relative to the others'. Default 1; 0: owns nothing (draining). RangeError for a negative or NaN. */
  readonly weight?: (member: M) => number
}
export declare class Ring<M extends { readonly id: string }> {
  constructor(members: Iterable<M>, options?: RingOptions<M>)
  /** How many members own anything. */
  readonly size: number
  /** undefined when nobody owns anything. Independent of the order of the members. */
  owner(key: string): M | undefined
  /** The first `count` distinct owners, owner(key) first; fewer when there are fewer. */
  owners(key: string, count: number): M[]
}

// ---------------------------------------------------------------- pg-membership/routing
// Requests to members: by key, or to anyone.

export type RouterOptions<M> = RingOptions<M>
/** Follows a cluster's snapshots; a ring is built once for each. */
export declare class Router<M extends { readonly id: string } = Member> {
  constructor(
    source: { readonly snapshot: { readonly members: readonly M[] } | undefined },
    options?: RouterOptions<M>,
  )
  owner(key: string): M | undefined
  owners(key: string, count: number): M[]
  /** Anyone, at random by weight, not one of those ejected unless all are. */
  pick(): M | undefined
  /** A request to it failed: for `forMs` this process gives it nothing that another could do. Keys move to their next owner meanwhile. */
  eject(member: M, options: { readonly forMs: number }): void
}
