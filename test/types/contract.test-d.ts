/**
 * The emitted types are the contract's: identical, not merely assignable, so that a lost `readonly` or a
 * widened union shows. `npm run typecheck` runs it; names that only exist as types: contract.test.ts.
 */
import type * as Main from 'pg-membership'
import type * as Memory from 'pg-membership/memory'
import type * as Contract from './contract.js'

type Class = abstract new (...args: never) => unknown

/** Conditional types are related by identity: the way to ask for it. */
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
/** Without the brand of #private members. */
type Members<C extends Class> = { [K in keyof InstanceType<C>]: InstanceType<C>[K] }
/** Without the names of the parameters. */
type Construct<C extends Class> = (...args: ConstructorParameters<C>) => void
type SameClass<A extends Class, B extends Class> = Same<
  [Members<A>, Construct<A>, keyof A],
  [Members<B>, Construct<B>, keyof B]
>

/** Constructors may take more options than a base class's: both ways assignable. */
type SameError<A extends Class, B extends Class> = Same<
  [Members<A>, keyof A, Construct<A> extends Construct<B> ? true : false],
  [Members<B>, keyof B, Construct<B> extends Construct<A> ? true : never]
>

type MemoryNames = 'MemoryCluster' | 'MemoryWorld'
type World = Memory.MemoryWorld
type WorldOfContract = Contract.MemoryWorld

type All<Checks extends readonly true[]> = Checks

export type Values = All<
  [
    Same<keyof typeof Main, Exclude<keyof typeof Contract, MemoryNames>>,
    Same<keyof typeof Memory, MemoryNames>,
    Same<typeof Main.diffMembers, typeof Contract.diffMembers>,
    Same<typeof Main.migrate, typeof Contract.migrate>,
    Same<typeof Main.migrationSql, typeof Contract.migrationSql>,
    SameClass<typeof Main.PostgresCluster, typeof Contract.PostgresCluster>,
  ]
>

export type Interfaces = All<
  [
    Same<Main.Member, Contract.Member>,
    Same<Main.Cursor, Contract.Cursor>,
    Same<Main.Change, Contract.Change>,
    Same<Main.Snapshot, Contract.Snapshot>,
    Same<Main.WaitOptions, Contract.WaitOptions>,
    Same<Main.Reader, Contract.Reader>,
    Same<Main.Lease, Contract.Lease>,
    Same<Main.Membership, Contract.Membership>,
    Same<Main.QueryClient, Contract.QueryClient>,
    Same<Main.Registration, Contract.Registration>,
    Same<Main.Cluster, Contract.Cluster>,
    Same<Main.MembershipOptions, Contract.MembershipOptions>,
    Same<Main.Status, Contract.Status>,
    Same<Main.Connection, Contract.Connection>,
    Same<Main.ConnectionConfig, Contract.ConnectionConfig>,
    Same<Main.PostgresClusterOptions, Contract.PostgresClusterOptions>,
    Same<Main.Logger, Contract.Logger>,
    Same<Main.Connections, Contract.Connections>,
    Same<Main.MigrateOptions, Contract.MigrateOptions>,
  ]
>

export type Errors = All<
  [
    SameError<typeof Main.MembershipError, typeof Contract.MembershipError>,
    SameError<typeof Main.ClosedError, typeof Contract.ClosedError>,
    SameError<typeof Main.MembershipLostError, typeof Contract.MembershipLostError>,
    SameError<typeof Main.DeregisteredError, typeof Contract.DeregisteredError>,
    SameError<typeof Main.AbortedError, typeof Contract.AbortedError>,
    SameError<typeof Main.SchemaError, typeof Contract.SchemaError>,
    SameError<typeof Main.CompactedError, typeof Contract.CompactedError>,
    SameError<typeof Main.OptionError, typeof Contract.OptionError>,
    SameError<typeof Main.ConnectionError, typeof Contract.ConnectionError>,
  ]
>

// MemoryWorld and MemoryCluster mention one another, brand and all: compared part by part.
export type InMemory = All<
  [
    Same<Members<typeof Memory.MemoryCluster>, Members<typeof Contract.MemoryCluster>>,
    Same<
      Construct<typeof Memory.MemoryCluster>,
      (options: { readonly name: string; readonly world?: World }) => void
    >,
    Same<keyof typeof Memory.MemoryCluster, keyof typeof Contract.MemoryCluster>,
    Same<Construct<typeof Memory.MemoryWorld>, Construct<typeof Contract.MemoryWorld>>,
    Same<keyof World, keyof WorldOfContract>,
    Same<World['remove'], WorldOfContract['remove']>,
    Same<World['disconnect'], (cluster: Memory.MemoryCluster) => void>,
    Same<World['reconnect'], (cluster: Memory.MemoryCluster) => void>,
  ]
>

/** That the comparison is as strict as it says. */
interface Writable {
  id: string
}
export type Sanity = All<
  [
    Same<Same<Readonly<Writable>, Writable>, false>,
    Same<Same<Writable, Partial<Writable>>, false>,
    Same<Same<Contract.Cluster, Contract.Reader>, false>,
    Same<Same<Promise<Contract.Lease>, Promise<Contract.Lease | undefined>>, false>,
  ]
>
