/** What users see of typed data. */
import type { Change } from '../../api/change.js'
import type { Cursor } from '../../api/cursor.js'
import type { Member } from '../../api/member.js'
import type { Membership, MembershipOptions } from '../../api/membership.js'
import type { Status } from '../../api/status.js'
import type { WaitOptions } from '../../api/wait-options.js'

/** How a T is written as the string that members carry. */
export interface Codec<T> {
  /** The string for a value. What it throws reaches who called `createMembership` or `setData`. */
  encode(value: T): string
  /** The value of a string. Throws for what is not a T. Called once for each value; the result is shared: do not change it. */
  decode(data: string): T
}

/** A member whose data is a T. Frozen, but for the data. It stays the same object in each snapshot until it changes. */
export interface TypedMember<T> extends Omit<Member, 'data'> {
  /** What `decode` made of the member's data. All readers of this process share it: do not change it. */
  readonly data: T
}

/** An immutable view of the members whose data could be decoded, at one revision. */
export interface TypedSnapshot<T> {
  /** The revision of the cluster. */
  readonly revision: number
  /** `watchChanges({ since: snapshot.cursor })` goes on exactly where this snapshot stands. */
  readonly cursor: string
  /** Oldest registration first. `members[0]` may not be the leader: other processes may decode other members. */
  readonly members: readonly TypedMember<T>[]
  /** The member with this id; undefined when it is not registered, or its data cannot be decoded. */
  get(id: string): TypedMember<T> | undefined
}

/** A Membership whose data is a T. */
export interface TypedMembership<T> extends Omit<Membership, 'data' | 'setData'> {
  /** The last value set here, whether or not it has reached the database. */
  readonly data: T
  /** As `Membership.setData`. @throws also what `encode` throws; then nothing is set. */
  setData(data: T, options?: WaitOptions): Promise<void>
}

/** A cluster whose members carry data of one type. */
export interface TypedCluster<T> extends AsyncDisposable {
  /** The name of the cluster. */
  readonly name: string
  /** That of the cluster. */
  readonly status: Status
  /** The newest snapshot without waiting; undefined until the first one is loaded. */
  readonly snapshot: TypedSnapshot<T> | undefined
  /** As `Cluster.createMembership`, but data is required. @throws also what `encode` throws. */
  createMembership(options: Omit<MembershipOptions, 'data'> & { readonly data: T }): TypedMembership<T>
  /** As `Reader.getMembers`, without those that cannot be decoded. */
  getMembers(options?: WaitOptions & { readonly fresh?: boolean }): Promise<readonly TypedMember<T>[]>
  /** As `Reader.watchMembers`. A change of a member that cannot be decoded yields nothing. */
  watchMembers(options?: WaitOptions): AsyncIterableIterator<readonly TypedMember<T>[]>
  /** As `Reader.watchChanges`. A change of a member that cannot be decoded is left out. */
  watchChanges(options?: WaitOptions & { readonly since?: Cursor }): AsyncIterableIterator<
    Omit<Change, 'member'> & {
      /** As it is from here on; for 'left', as it was last. */
      readonly member: TypedMember<T>
    }
  >
  /** Closes the cluster. */
  close(): Promise<void>
}
