import type { Change } from './change.js'
import type { Cursor } from './cursor.js'
import type { Member } from './member.js'
import type { Snapshot } from './snapshot.js'
import type { WaitOptions } from './wait-options.js'

/** The cached view of a cluster, which follows the database by itself. */
export interface Reader extends AsyncDisposable {
  /** The name of the cluster. */
  readonly name: string
  /** The newest snapshot without waiting; undefined until the first one is loaded. */
  readonly snapshot: Snapshot | undefined
  /**
   * The cached members, oldest registration first; waits for the first load only. With `fresh` (default: false)
   * it asks the database first, and advances the cache.
   *
   * @throws AbortedError when the signal aborts, ClosedError when closed, ConnectionError or SchemaError
   * when the database can never answer. Keeps trying while it merely cannot be reached.
   */
  getMembers(options?: WaitOptions & { readonly fresh?: boolean }): Promise<readonly Member[]>
  /**
   * Yields the current members at once, then the newest after each change. A slow consumer skips the ones in
   * between, and equal members are not yielded twice in a row. Subscribes on the first `next()`.
   *
   * Ends *normally* when the signal aborts (unlike Node's own iterators, which throw AbortError), when
   * the loop breaks (`return()` settles a pending `next()`), or when the reader closes.
   *
   * @throws ConnectionError or SchemaError at the first step, when the database can never answer (bad password,
   * missing schema). Later steps never reject: an outage shows in `status`.
   */
  watchMembers(options?: WaitOptions): AsyncIterableIterator<readonly Member[]>
  /**
   * Every change once, in order, none skipped: after `since`, or after the moment of the first `next()`. A consumer
   * may be as slow as it likes: the log is read when it asks for more, in pages of at most 2,000 changes and about
   * 1 MiB, of which one is held. `since` is the cursor of a snapshot or of a change, perhaps from before a restart.
   * Ends normally like `watchMembers`.
   *
   * @throws OptionError at once for a `since` that is no cursor. A step rejects with a CompactedError when the log no
   * longer has what follows, or when the history of the cluster was replaced (a failover that lost commits): take a
   * fresh snapshot and go on from its cursor. ConnectionError or SchemaError before the first answer, when the
   * database can never give one; later it keeps trying, and an outage shows in `status`.
   */
  watchChanges(options?: WaitOptions & { readonly since?: Cursor }): AsyncIterableIterator<Change>
  /**
   * Ends leases and watchers, deregisters what is registered, closes the connections. Idempotent, never rejects,
   * and takes at most `closeTimeoutMs` (default 5_000 ms).
   */
  close(): Promise<void>
}
