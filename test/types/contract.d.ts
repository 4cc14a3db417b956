/**
 * The public contract, as published: names, types and semantics. contract.test-d.ts holds what the package
 * emits against it; a difference between the two is a breaking change.
 */

// ---------------------------------------------------------------- members

/** Anyone in a cluster. Frozen; survives JSON. Identity is kept from snapshot to snapshot while nothing about it changes. */
export interface Member {
  /** Canonical string of a UUID; the same through every register/deregister cycle of one membership. */
  readonly id: string
  /** Any string its owner set, '' by default. */
  readonly data: string
  /** Revision at which it registered: later registrations have higher tokens. A fencing token. */
  readonly token: number
  /** Server time of the registration, ISO 8601 UTC. */
  readonly registeredAt: string
}

/** A point in the history of one cluster: opaque, survives JSON and restarts, means nothing in another cluster. */
export type Cursor = string

/** An immutable view of a cluster at one revision. */
export interface Snapshot {
  readonly revision: number
  /** `watchChanges({ since: snapshot.cursor })` goes on exactly where this snapshot stands. */
  readonly cursor: Cursor
  /** Oldest registration first (ascending token), so that members[0] is everybody's natural leader. */
  readonly members: readonly Member[]
  get(id: string): Member | undefined
}

/** One entry of a cluster's history. Frozen; survives JSON. */
export interface Change {
  /** Go on after this change with `watchChanges({ since: change.cursor })`. */
  readonly cursor: Cursor
  readonly revision: number
  /** Server time, ISO 8601 UTC. */
  readonly at: string
  readonly kind: 'joined' | 'updated' | 'left'
  readonly reason: 'registered' | 'data' | 'deregistered' | 'expired' | 'crashed' | 'removed' | 'superseded'
  /** As it is from here on; for 'left', as it was last. */
  readonly member: Member
}

/** What changed between two lists of members: pure, by id and token; a member that came back is both left and joined. */
export declare function diffMembers(
  before: readonly Member[],
  after: readonly Member[],
): {
  readonly joined: readonly Member[]
  readonly left: readonly Member[]
  readonly updated: readonly { readonly before: Member; readonly after: Member }[]
}

// ---------------------------------------------------------------- reading

export interface WaitOptions {
  readonly signal?: AbortSignal
}

export interface Reader extends AsyncDisposable {
  readonly name: string
  /** The newest snapshot without waiting; undefined until the first one is loaded. */
  readonly snapshot: Snapshot | undefined
  /** The cached members, waiting for the first load only. `fresh` asks the database first, and advances the cache. */
  getMembers(options?: WaitOptions & { readonly fresh?: boolean }): Promise<readonly Member[]>
  /**
   * The current members at once, then the newest after each change; intermediates are skipped for a
   * slow consumer. Subscribes on the first `next()`. Ends normally when the signal aborts, the loop
   * breaks (`return()` settles a pending `next()`), or the reader closes. Permanent errors (bad
   * password, missing schema) reject the first step.
   */
  watchMembers(options?: WaitOptions): AsyncIterableIterator<readonly Member[]>
  /**
   * Every change once, in order, none skipped: after `since`, or after the moment of the first `next()`.
   * Reads the log as fast as the consumer asks and holds a bounded number of changes. Throws
   * CompactedError when the log no longer has what follows `since`, or its history was replaced (a
   * failover that lost commits): take a snapshot and go on from its cursor. Ends normally like watchMembers.
   */
  watchChanges(options?: WaitOptions & { readonly since?: Cursor }): AsyncIterableIterator<Change>
  /** Idempotent, bounded in time, never rejects. */
  close(): Promise<void>
}

// ---------------------------------------------------------------- taking part

/** One period during which this process may trust that it is registered. */
export interface Lease {
  readonly token: number
  /** Aborts with a MembershipLostError when the trust ends, or with a ClosedError/DeregisteredError reason when it is given up. */
  readonly signal: AbortSignal
}

export interface Membership extends AsyncDisposable {
  readonly id: string
  /** The last value set here, whether or not it has reached the database. */
  readonly data: string
  /** The present lease, judged by the clock at the moment of asking; undefined when not registered or not trusted. */
  readonly lease: Lease | undefined
  /** The present lease, or the next one. Rejects with ClosedError when there will be none. */
  whenRegistered(options?: WaitOptions): Promise<Lease>
  /**
   * Resolves once this process's own snapshot shows the registration. A no-op while registered.
   * Keeps trying while the database cannot be reached; permanent errors reject at once. On abort it
   * rejects with AbortedError (carrying the last database error) and leaves nothing registered.
   */
  register(options?: WaitOptions): Promise<Lease>
  /** Resolves once this process's own snapshot no longer shows it. The lease ends before the row goes. On abort only the wait ends. */
  deregister(options?: WaitOptions): Promise<void>
  /** Allowed before registering. While registered, resolves once this process's own snapshot shows it. The last value set wins. */
  setData(data: string, options?: WaitOptions): Promise<void>
  /**
   * Inside the caller's transaction: raises (SQLSTATE 'MB001') unless this registration is current,
   * and keeps it from being removed until the transaction ends.
   */
  fence(client: QueryClient): Promise<void>
}

/** One stay of a member: what names it beyond doubt. */
export interface Registration {
  readonly id: string
  readonly token: number
}

/** What `fence` needs of a client: pg's Client and PoolClient have it. */
export interface QueryClient {
  query(text: string, values: unknown[]): Promise<unknown>
}

export interface Cluster extends Reader {
  readonly status: Status
  /** Synchronous, unregistered, invisible to others. Throws ClosedError after close. */
  createMembership(options?: MembershipOptions): Membership
}

export interface MembershipOptions {
  readonly data?: string
  /** What to do when the registration was removed by others. Default 'register-again': same id, higher token. */
  readonly onLost?: 'register-again' | 'stay-out'
}

export interface Status {
  /** 'connecting' until the first load; 'listening'; 'polling' when LISTEN is off or does not work here; 'disconnected'; 'closed'. */
  readonly mode: 'connecting' | 'listening' | 'polling' | 'disconnected' | 'closed'
  /** Since when, ISO 8601 UTC by this process's clock. */
  readonly since: string
  readonly revision: number | undefined
  /** Milliseconds since the cache was last confirmed against the database; undefined before the first time. */
  readonly ageMs: number | undefined
  readonly lastError: Error | undefined
}

// ---------------------------------------------------------------- PostgreSQL

export type Connection = string | ConnectionConfig | (() => Promise<string | ConnectionConfig>)

/** The part of node-postgres's client configuration that applies here, described structurally. */
export interface ConnectionConfig {
  readonly connectionString?: string
  readonly host?: string
  readonly port?: number
  readonly database?: string
  readonly user?: string
  readonly password?: string | (() => string | Promise<string>)
  readonly ssl?: boolean | object
  readonly [option: string]: unknown
}

export interface PostgresClusterOptions {
  readonly name: string
  /** For queries; may go through a pooler. A function is called before every connect; a standby is refused. */
  readonly connection: Connection | Connections
  /** For LISTEN; a direct or session-mode address. Default: `connection`. false: never listen, poll. */
  readonly listenConnection?: Connection | false
  /** Default 'pgmembership'. */
  readonly schema?: string
  /** Silence after which others may remove a member. 1_000 to 86_400_000; default 15_000. */
  readonly ttlMs?: number
  /** Default ttlMs / 3; at most ttlMs / 2. */
  readonly heartbeatMs?: number
  /** How long the cache may go unconfirmed when nothing else confirms it. Default heartbeatMs. */
  readonly pollMs?: number
  /**
   * How long all connections of a process may be gone before others may take it for crashed, without
   * waiting for its ttl. false: wait for the ttl. Default 400; at most ttlMs / 2.
   */
  readonly crashGraceMs?: number | false
  /** Bound of close(). Default 5_000. */
  readonly closeTimeoutMs?: number
  readonly logger?: Logger
}

/** Structural; pino and console fit. */
export interface Logger {
  debug(details: object, message: string): void
  info(details: object, message: string): void
  warn(details: object, message: string): void
  error(details: object, message: string): void
}

/** Connections that several clusters of one process share; the last of them to close closes it. Opaque. */
export interface Connections {
  readonly [connections: symbol]: true
}

/** No I/O in the constructor. Bad options throw OptionError naming option, value and range. */
export declare class PostgresCluster implements Cluster {
  constructor(options: PostgresClusterOptions)
  readonly connections: Connections
  readonly name: string
  readonly snapshot: Snapshot | undefined
  readonly status: Status
  createMembership(options?: MembershipOptions): Membership
  getMembers(options?: WaitOptions & { readonly fresh?: boolean }): Promise<readonly Member[]>
  watchMembers(options?: WaitOptions): AsyncIterableIterator<readonly Member[]>
  watchChanges(options?: WaitOptions & { readonly since?: Cursor }): AsyncIterableIterator<Change>
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

export interface MigrateOptions {
  /** A direct connection. */
  readonly connection: Connection
  readonly schema?: string
}
/** Brings the schema to this version of the library; safe from any number of processes at once. Returns the names of the migrations run. */
export declare function migrate(options: MigrateOptions): Promise<string[]>
/** The SQL of the same migrations, for teams with a migration tool of their own; leaves the same record behind. */
export declare function migrationSql(options?: {
  readonly schema?: string
  readonly from?: number
  readonly to?: number
  readonly direction?: 'up' | 'down'
}): string

// ---------------------------------------------------------------- errors

export declare class MembershipError extends Error {
  /** Stable, for programs. */
  readonly code:
    'CLOSED' | 'LOST' | 'DEREGISTERED' | 'ABORTED' | 'SCHEMA' | 'OPTION' | 'CONNECTION' | 'COMPACTED'
}
/** The reader is closed. */
export declare class ClosedError extends MembershipError {
  readonly code: 'CLOSED'
}
export declare class MembershipLostError extends MembershipError {
  readonly code: 'LOST'
  /** 'unreachable': no heartbeat got through in time. Otherwise what the event log says. */
  readonly reason: 'unreachable' | 'expired' | 'crashed' | 'removed' | 'superseded'
}
export declare class DeregisteredError extends MembershipError {
  readonly code: 'DEREGISTERED'
}
/** name is 'AbortError'; cause is the signal's reason. */
export declare class AbortedError extends MembershipError {
  readonly code: 'ABORTED'
  readonly lastError: Error | undefined
}
/** The schema is missing, older, or newer than this code can work with; the message says which command to run. */
export declare class SchemaError extends MembershipError {
  readonly code: 'SCHEMA'
}
/** The history after a cursor is not there any more. */
export declare class CompactedError extends MembershipError {
  readonly code: 'COMPACTED'
}
export declare class OptionError extends MembershipError {
  readonly code: 'OPTION'
}
/** A permanent failure to connect: authentication, unknown database, a host name that cannot be one. */
export declare class ConnectionError extends MembershipError {
  readonly code: 'CONNECTION'
}

// ---------------------------------------------------------------- pg-membership/memory
// MemoryCluster implements Cluster in one process, for tests. Clusters made with the same world and
// name see one another; the world lets a test expire, crash or remove a member and cut a cluster off.

export declare class MemoryWorld {
  remove(id: string, reason?: 'expired' | 'crashed' | 'removed'): void
  disconnect(cluster: MemoryCluster): void
  reconnect(cluster: MemoryCluster): void
}
export declare class MemoryCluster implements Cluster {
  constructor(options: { readonly name: string; readonly world?: MemoryWorld })
  readonly name: string
  readonly snapshot: Snapshot | undefined
  readonly status: Status
  createMembership(options?: MembershipOptions): Membership
  getMembers(options?: WaitOptions & { readonly fresh?: boolean }): Promise<readonly Member[]>
  watchMembers(options?: WaitOptions): AsyncIterableIterator<readonly Member[]>
  watchChanges(options?: WaitOptions & { readonly since?: Cursor }): AsyncIterableIterator<Change>
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}
