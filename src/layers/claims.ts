/**
 * Keys of which each is one registration's alone, released by the database when that registration ends.
 *
 * @module pg-membership/claims
 */
import type { Cluster } from '../api/cluster.js'
import type { Registering } from '../api/membership.js'
import type { QueryClient } from '../api/query-client.js'
import type { Registration } from '../api/registration.js'
import type { WaitOptions } from '../api/wait-options.js'
import { checkMembership, parts, text, texts, untilAnswered, withoutLease } from '../kit/asking.js'
import { checkOptions, checkWaitOptions } from '../kit/options.js'
import { type ClaimsPort, MOST_IN_ONE, portsOf } from '../kit/ports.js'
import { Held } from './held.js'

export type { Registering }

/** Options of `Claims`. Any other name is refused. */
export interface ClaimsOptions {
  /** A PostgresCluster or a MemoryCluster. */
  readonly cluster: Cluster
  /** Whose registrations the keys belong to: a membership of this cluster. */
  readonly membership: Registering
  /** Keys of one space do not meet those of another. At most 255 bytes of UTF-8. Default ''. */
  readonly space?: string
}

/**
 * Claims keys for a membership. A key is a string of 1 to 255 bytes of UTF-8, without U+0000 and lone surrogates.
 *
 * The database releases the keys when the registration ends, whichever way: about a second after a crash, and within
 * the ttl when the process only falls silent. A new registration begins with nothing. docs/guides/claims.md shows it at
 * work.
 */
export class Claims {
  readonly #cluster: Cluster
  readonly #membership: Registering
  readonly #space: string
  readonly #port: ClaimsPort
  readonly #held = new Held()

  /** @throws OptionError for a bad option, TypeError for a cluster that is none of this package. */
  constructor(options: ClaimsOptions) {
    checkOptions('Claims', options, ['cluster', 'membership', 'space'])
    const { cluster, membership, space = '' } = options
    checkMembership(membership)
    this.#port = portsOf(cluster).claims
    this.#cluster = cluster
    this.#membership = membership
    this.#space = space === '' ? '' : text('space', space)
  }

  /**
   * What this process may believe it has, as a copy of this moment; empty once the lease has ended. Where it matters,
   * `fence` makes a transaction depend on it.
   */
  get held(): ReadonlySet<string> {
    return this.#held.by(this.#membership.lease?.token)
  }

  /**
   * Resolves with those of the keys that are this registration's now, newly or already. It waits for nobody: a key that
   * somebody else has is left out. So is one that somebody is claiming or releasing at this moment, if that takes longer
   * than some milliseconds: ask again. It goes on trying while the database cannot be reached. Up to 10,000 keys go in
   * one statement.
   *
   * @throws MembershipLostError without a lease, or what ended the lease meanwhile. AbortedError when the signal aborts;
   * keys may have been claimed then: release them, or claim again. OptionError for a bad key. ClosedError when the
   * cluster is closed, ConnectionError or SchemaError when waiting does not help.
   */
  async claim(keys: Iterable<string>, options: WaitOptions = {}): Promise<ReadonlySet<string>> {
    checkWaitOptions(options)
    const wanted = texts('keys', keys)
    const { lease } = this.#membership
    if (lease === undefined) throw withoutLease(this.#cluster)
    const registration = { id: this.#membership.id, token: lease.token }
    const claimed = new Set<string>()
    for (const some of parts(wanted, MOST_IN_ONE)) {
      const ours = await untilAnswered(
        async () => {
          const answer = await this.#port.claim(this.#space, registration, some)
          this.#held.note(registration.token, answer ?? [], 'add')
          return answer
        },
        { cluster: this.#cluster, signal: options.signal, ends: [lease.signal] },
      )
      if (ours === undefined || lease.signal.aborted) throw withoutLease(this.#cluster, lease)
      for (const key of ours) claimed.add(key)
    }
    return claimed
  }

  /**
   * Resolves when none of the keys is this registration's any more. A no-op for keys that are not. It waits for
   * transactions that have fenced a key, and while the database cannot be reached.
   *
   * @throws AbortedError when the signal aborts: then only the wait ends. Otherwise like `claim`.
   */
  async release(keys: Iterable<string>, options: WaitOptions = {}): Promise<void> {
    checkWaitOptions(options)
    const registration = this.#registration()
    for (const some of parts(texts('keys', keys), MOST_IN_ONE)) {
      this.#held.note(registration.token, some, 'delete')
      let left: readonly string[] = some
      await untilAnswered(
        async () => {
          left = await this.#port.release(this.#space, registration, left)
          this.#held.note(registration.token, some, 'delete')
          if (left.length > 0) throw new Error('A transaction has locked some of the keys')
        },
        { cluster: this.#cluster, signal: options.signal },
      )
    }
  }

  /** Who has the key, by the database. Waits while the database cannot be reached. @throws As `release` does. */
  async owner(key: string, options: WaitOptions = {}): Promise<Registration | undefined> {
    checkWaitOptions(options)
    const asked = text('key', key)
    return await untilAnswered(() => this.#port.owner(this.#space, asked), {
      cluster: this.#cluster,
      signal: options.signal,
    })
  }

  /**
   * Inside the caller's transaction: fails unless all of the keys are this registration's, and keeps them and the
   * registration until the transaction ends. Call it first in the transaction, outside savepoints. The server ends a
   * transaction that then idles for too long, as with `Membership.fence`.
   *
   * @throws The client's own error with code 'MB002' when a key is not this registration's, or '55P03' when somebody had
   * a row locked for 2 s. TypeError for a pool, for what is not a client, and for a client outside a transaction.
   */
  async fence(client: QueryClient, keys: Iterable<string>): Promise<void> {
    await this.#port.fence(client, this.#space, this.#registration(), texts('keys', keys))
  }

  /** The present one; without a lease, the one that had the keys: it may be there still. */
  #registration(): Registration {
    return { id: this.#membership.id, token: this.#membership.lease?.token ?? this.#held.token }
  }
}
