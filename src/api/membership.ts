import type { Lease } from './lease.js'
import type { QueryClient } from './query-client.js'
import type { WaitOptions } from './wait-options.js'

/** The object by which one process takes part in a cluster: it registers, sends heartbeats and deregisters. */
export interface Membership extends AsyncDisposable {
  /** A UUID, the same for the life of this object. */
  readonly id: string
  /** The last value set here, whether or not it has reached the database. */
  readonly data: string
  /** The present lease, checked against the clock at each read; undefined when not registered or not trusted. */
  readonly lease: Lease | undefined
  /**
   * Resolves with the present lease, or waits for the next one. It does not register.
   *
   * @throws ClosedError when the cluster is closed, AbortedError when the signal aborts.
   */
  whenRegistered(options?: WaitOptions): Promise<Lease>
  /**
   * Resolves once this process's own snapshot shows the registration. A no-op while registered.
   * Keeps trying while the database cannot be reached, and, once per heartbeat, while the member is evicted.
   *
   * @throws AbortedError (carrying the last database error, or who evicted it and why) when the signal aborts:
   * nothing stays registered. DeregisteredError when `deregister` is called meanwhile. ClosedError when the cluster is
   * closed. ConnectionError or SchemaError at once when waiting does not help: nothing stays registered.
   * A membership that was registered before, and comes back by itself, goes on trying then.
   */
  register(options?: WaitOptions): Promise<Lease>
  /**
   * Resolves once this process's own snapshot no longer shows the registration. The lease ends before the row is
   * deleted. A no-op while not registered.
   *
   * @throws AbortedError when the signal aborts, ConnectionError or SchemaError when waiting does not help: then only
   * the wait ends, and the library goes on trying. ClosedError when the cluster is closed first.
   */
  deregister(options?: WaitOptions): Promise<void>
  /**
   * Allowed before registering. While registered, resolves once this process's own snapshot shows the value.
   * If several calls wait at once, the last value wins.
   *
   * @throws TypeError when data is not a string or has a lone surrogate, RangeError beyond 1 MiB of
   * UTF-8; AbortedError when the signal aborts, ConnectionError or SchemaError when waiting does not help (the
   * value stays set, and is sent when it can be), ClosedError when closed.
   */
  setData(data: string, options?: WaitOptions): Promise<void>
  /**
   * Inside the caller's transaction: fails unless this registration is current and unexpired, and keeps it from
   * being removed until the transaction ends. Call it first in the transaction, outside savepoints.
   *
   * While the transaction idles, nobody else can take over. So the server ends it, and its session (SQLSTATE 25P03),
   * when it has been idle for the ttl, or for 15 s if these are more. If this happens to a process that lives, it did
   * something else for that long between two statements: do that before the transaction. A smaller
   * `idle_in_transaction_session_timeout` of the session stays.
   *
   * It fences the registration that the snapshot shows at the moment of the call. Code that acts on an *earlier*
   * snapshot must look at the snapshot again right before this call, without an `await` in between, or fence the
   * token that it saw: `select pgmembership.fence(id, token)`.
   *
   * @throws The client's own error with code 'MB001' when the registration is not current, or '55P03' when
   * somebody had its row locked for 2 s. TypeError for a pool, for an object that is not a client, and for a client
   * of pg outside a transaction.
   */
  fence(client: QueryClient): Promise<void>
}

/** What the layers need of a membership; a typed membership has it, too. */
export type Registering = Pick<Membership, 'id' | 'lease' | 'whenRegistered' | 'register' | 'deregister'>

/** Options of `createMembership`. */
export interface MembershipOptions {
  /** Any string, at most 1 MiB of UTF-8. Default ''. */
  readonly data?: string
  /**
   * What to do when the registration was removed by others. Default 'register-again': it comes back with the
   * same id and a higher token. 'stay-out': it stays gone until `register` is called again.
   */
  readonly onLost?: 'register-again' | 'stay-out'
}
