import type { Member } from './member.js'
import type { Snapshot } from './snapshot.js'
import type { WaitOptions } from './wait-options.js'

/** The members of a cluster, cached and kept fresh. */
export interface Reader extends AsyncDisposable {
  readonly name: string
  /** The newest snapshot without waiting; undefined until the first one is loaded. */
  readonly snapshot: Snapshot | undefined
  /**
   * The cached members, oldest registration first; waits for the first load only. With `fresh` it asks
   * the database first, and advances the cache.
   *
   * @throws AbortedError when the signal aborts, ClosedError when closed, ConnectionError or SchemaError
   * when the database can never answer. Keeps trying while it merely cannot be reached.
   */
  getMembers(options?: WaitOptions & { readonly fresh?: boolean }): Promise<readonly Member[]>
  /**
   * The current members at once, then the newest after each change; intermediates are skipped for a
   * slow consumer, and equal ones are not yielded twice in a row. Subscribes on the first `next()`.
   *
   * Ends *normally* when the signal aborts (unlike Node's own iterators, which throw AbortError), when
   * the loop breaks (`return()` settles a pending `next()`), or when the reader closes. Permanent errors
   * (bad password, missing schema) reject the first step.
   */
  watchMembers(options?: WaitOptions): AsyncIterableIterator<readonly Member[]>
  /** Idempotent, bounded in time, never rejects. */
  close(): Promise<void>
}
