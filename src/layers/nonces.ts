/**
 * Values of which each is used at most once, whatever dies in between.
 *
 * @module pg-membership/nonces
 */
import type { Cluster } from '../api/cluster.js'
import { ClosedError } from '../api/errors.js'
import type { Registering } from '../api/membership.js'
import type { WaitOptions } from '../api/wait-options.js'
import { checkMembership, parts, text, texts, untilAnswered } from '../kit/asking.js'
import { checkOptions, checkWaitOptions, refuse } from '../kit/options.js'
import { MOST_IN_ONE, portsOf } from '../kit/ports.js'
import { abortedError } from '../kit/waiting.js'
import { AtHand } from './at-hand.js'
import { EmptyError, giveBack, handedOut, type Nonce, type SharedPool } from './nonce.js'

export { EmptyError, type Nonce }

/** Options of `NoncePool`. Any other name is refused. */
export interface NoncePoolOptions {
  /** A PostgresCluster or a MemoryCluster. */
  readonly cluster: Cluster
  /** Whose registrations take the values: a membership of this cluster. */
  readonly membership: Registering
  /** Of the pool, which all processes of the cluster share. 1 to 255 bytes of UTF-8. */
  readonly name: string
  /** How many values this process keeps at hand. 1 to 10_000; default 100. It takes more when half are gone. */
  readonly size?: number
}

/** After this, `close` leaves the values to the end of the registration. */
const CLOSE_MS = 5_000

/**
 * A pool of values that all processes of a cluster share, and some of them at hand in this process.
 *
 * The values are free again when the registration that took them ends, whichever way: about a second after a crash. Used
 * ones never come back. A value has 1 to 255 bytes of UTF-8, without U+0000 and lone surrogates. docs/guides/nonces.md
 * shows it at work.
 */
export class NoncePool {
  readonly #membership: Registering
  readonly #shared: SharedPool
  readonly #atHand: AtHand
  readonly #closing = new AbortController()
  #closed: Promise<void> | undefined

  /** @throws OptionError for a bad option, TypeError for a cluster that is none of this package. */
  constructor(options: NoncePoolOptions) {
    checkOptions('NoncePool', options, ['cluster', 'membership', 'name', 'size'])
    const { cluster, membership, name, size = 100 } = options
    checkMembership(membership)
    this.#shared = { cluster, port: portsOf(cluster).nonces, name: text('name', name) }
    this.#membership = membership
    if (!Number.isInteger(size) || size < 1 || size > MOST_IN_ONE)
      refuse('size', size, `be a whole number from 1 to ${String(MOST_IN_ONE)}`)
    this.#atHand = new AtHand(this.#shared, { id: membership.id, size, closing: this.#closing.signal })
  }

  /** How many values are at hand in this process; 0 without a lease. */
  get available(): number {
    return this.#atHand.count(this.#membership.lease?.token)
  }

  /**
   * Adds values to the pool that all processes share. Known ones are left alone, used ones too. Resolves with how many
   * were new; when the database was unreachable meanwhile, it may have added some that are not counted. Needs no lease.
   *
   * @throws AbortedError when the signal aborts: some may have been added. OptionError for a bad value. ClosedError when
   * the cluster is closed, ConnectionError or SchemaError when waiting does not help.
   */
  async stock(values: Iterable<string>, options: WaitOptions = {}): Promise<number> {
    checkWaitOptions(options)
    const { port, name } = this.#shared
    let added = 0
    for (const some of parts(texts('values', values), MOST_IN_ONE)) {
      added += await this.#asking(() => port.stock(name, some), options.signal)
    }
    return added
  }

  /**
   * Resolves with a value that nobody else has: at once if one is at hand. Otherwise it waits for more of them, for the
   * database, and for a lease.
   *
   * @throws EmptyError when the shared pool has none left. AbortedError when the signal aborts. ClosedError when the
   * pool or the cluster is closed, ConnectionError or SchemaError when waiting does not help.
   */
  async take(options: WaitOptions = {}): Promise<Nonce> {
    checkWaitOptions(options)
    const { signal } = options
    for (;;) {
      if (signal?.aborted === true) throw abortedError(signal)
      this.#closing.signal.throwIfAborted()
      const lease =
        this.#membership.lease ??
        (await this.#asking((over) => this.#membership.whenRegistered({ signal: over }), signal))
      const taken = this.#atHand.take(lease)
      if (taken !== undefined)
        return handedOut(this.#shared, { id: this.#membership.id, token: lease.token }, taken)
      const found = await this.#asking(() => this.#atHand.refill(lease), signal).catch((error: unknown) => {
        // The next lease has the same registration, or another: see.
        if (error === lease.signal.reason) return undefined
        throw error
      })
      if (found === 0) throw new EmptyError(`The pool ${JSON.stringify(this.#shared.name)} has no value left`)
    }
  }

  /**
   * Gives back what is at hand, and takes nothing more. Never rejects, and resolves within about 5 seconds: what could
   * not be given back by then is free when the registration ends. Nonces that were handed out stay as they are.
   */
  close(): Promise<void> {
    return (this.#closed ??= this.#close())
  }

  async #close(): Promise<void> {
    this.#closing.abort(new ClosedError('The pool is closed'))
    const { token, taken, lost } = await this.#atHand.empty()
    if (taken.length + lost.length === 0) return
    const bound = AbortSignal.timeout(CLOSE_MS)
    await giveBack(this.#shared, { id: this.#membership.id, token }, taken, lost, bound).catch(
      () => undefined,
    )
  }

  #asking<T>(ask: (over: AbortSignal) => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    return untilAnswered(ask, { cluster: this.#shared.cluster, signal, ends: [this.#closing.signal] })
  }
}
