import type { Lease } from './lease.js'
import type { QueryClient } from './query-client.js'
import type { WaitOptions } from './wait-options.js'

/** This process's own handle on one place in the cluster: it registers, heartbeats and deregisters. */
export interface Membership extends AsyncDisposable {
  /** A UUID, the same for the life of this object. */
  readonly id: string
  /** The last value set here, whether or not it has reached the database. */
  readonly data: string
  /** The present lease, judged by the clock at the moment of asking; undefined when not registered or not trusted. */
  readonly lease: Lease | undefined
  /**
   * The present lease, or the next one; registers nothing by itself.
   *
   * @throws ClosedError when there will be none, AbortedError when the signal aborts.
   */
  whenRegistered(options?: WaitOptions): Promise<Lease>
  /**
   * Resolves once this process's own snapshot shows the registration. A no-op while registered.
   * Keeps trying while the database cannot be reached.
   *
   * @throws AbortedError (carrying the last database error) when the signal aborts: nothing stays
   * registered. DeregisteredError when `deregister` is called meanwhile. ClosedError when the cluster is
   * closed. ConnectionError or SchemaError at once when waiting does not help: nothing stays registered.
   * Only a membership that has been registered before, and comes back by itself, goes on trying then.
   */
  register(options?: WaitOptions): Promise<Lease>
  /**
   * Resolves once this process's own snapshot no longer shows it. The lease ends before the row goes. A no-op
   * while not registered.
   *
   * @throws AbortedError when the signal aborts, ConnectionError or SchemaError when waiting does not help: only
   * the wait ends. ClosedError when the cluster is closed first.
   */
  deregister(options?: WaitOptions): Promise<void>
  /**
   * Allowed before registering. While registered, resolves once this process's own snapshot shows it;
   * of several calls at once, the last value wins.
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
   * It fences the registration that the snapshot shows at the moment of the call. Who acts on what a
   * snapshot showed *before* (it awaited something since) looks again in the same turn, or fences the token
   * that it saw: `select pgmembership.fence(id, token)`.
   *
   * @throws The client's own error with code 'MB001' when the registration is not current, or '55P03' when
   * somebody held its row locked for 2 s. TypeError for a pool, for what is no client, and for a client of pg that
   * is in no transaction.
   */
  fence(client: QueryClient): Promise<void>
}

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
