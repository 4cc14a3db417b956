/**
 * Values of which each is used at most once, whatever dies in between.
 *
 * @module pg-membership/nonces
 */
import type { Cluster } from '../api/cluster.js'
import { ClosedError, MembershipError } from '../api/errors.js'
import type { QueryClient } from '../api/query-client.js'
import type { Registration } from '../api/registration.js'
import type { WaitOptions } from '../api/wait-options.js'
import { checkMembership, parts, type Registering, text, texts, untilAnswered } from '../kit/asking.js'
import { checkOptions, checkWaitOptions, refuse } from '../kit/options.js'
import { MOST_IN_ONE, type NoncesPort, portsOf, type Taken } from '../kit/ports.js'
import { abortedError } from '../kit/waiting.js'
import { AtHand } from './at-hand.js'

export type { Registering }

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

/** One value that nobody else has. */
export interface Nonce {
  readonly value: string
  /**
   * Inside the caller's transaction: the value is used for good if that commits, and still taken if it rolls back.
   * Keeps the registration from being removed until then. Call it first in the transaction, outside savepoints.
   *
   * @throws The client's own error with code 'MB001' when the registration that took the value is gone: another may have
   * it then. The same when it was used or released before. '55P03' when somebody had a row locked for 2 s. TypeError for a
   * pool of clients, for what is not a client, and for a client outside a transaction.
   */
  use(client: QueryClient): Promise<void>
  /** Back to the pool, unless it was used. Waits for a transaction that is using it. */
  release(): Promise<void>
}

// The type of MembershipError names the codes of the core only.
const Base = MembershipError as unknown as new (message?: string, options?: ErrorOptions) => Error

/** The pool that all processes share has no value left: stock it. A MembershipError. */
export class EmptyError extends Base {
  readonly code = 'EMPTY'
}
Object.defineProperty(EmptyError.prototype, 'name', {
  value: 'EmptyError',
  configurable: true,
  writable: true,
})

/** After this, `close` leaves the values to the end of the registration. */
const CLOSE_MS = 5_000

/**
 * A pool of values that all processes of a cluster share, and some of them at hand in this process.
 *
 * The values are free again when the registration that took them ends, whichever way: about a second after a crash. Used
 * ones never come back. A value has 1 to 255 bytes of UTF-8, without U+0000 and lone surrogates.
 *
 * @example
 * const nonces = new NoncePool({ cluster, membership, name: 'invoice numbers' })
 * const nonce = await nonces.take()
 * await client.query('begin')
 * await nonce.use(client)
 * await client.query('insert into invoices (number) values ($1)', [nonce.value])
 * await client.query('commit')
 */
export class NoncePool {
  readonly #cluster: Cluster
  readonly #membership: Registering
  readonly #name: string
  readonly #port: NoncesPort
  readonly #atHand: AtHand
  readonly #closing = new AbortController()
  #closed: Promise<void> | undefined

  /** @throws OptionError for a bad option, TypeError for a cluster that is none of this package. */
  constructor(options: NoncePoolOptions) {
    checkOptions('NoncePool', options, ['cluster', 'membership', 'name', 'size'])
    const { cluster, membership, name, size = 100 } = options
    checkMembership(membership)
    this.#port = portsOf(cluster).nonces
    this.#cluster = cluster
    this.#membership = membership
    this.#name = text('name', name)
    if (!Number.isInteger(size) || size < 1 || size > MOST_IN_ONE)
      refuse('size', size, `be a whole number from 1 to ${String(MOST_IN_ONE)}`)
    this.#atHand = new AtHand({
      cluster,
      id: membership.id,
      port: this.#port,
      name: this.#name,
      size,
      closing: this.#closing.signal,
    })
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
    let added = 0
    for (const some of parts(texts('values', values), MOST_IN_ONE)) {
      added += await this.#asking(() => this.#port.stock(this.#name, some), options.signal)
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
      if (taken !== undefined) return this.#nonce(taken, { id: this.#membership.id, token: lease.token })
      const found = await this.#asking(() => this.#atHand.refill(lease), signal).catch((error: unknown) => {
        // The next lease has the same registration, or another: see.
        if (error === lease.signal.reason) return undefined
        throw error
      })
      if (found === 0) throw new EmptyError(`The pool ${JSON.stringify(this.#name)} has no value left`)
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
    await this.#giveBack({ id: this.#membership.id, token }, taken, lost, bound).catch(() => undefined)
  }

  #nonce(taken: Taken, registration: Registration): Nonce {
    return Object.freeze({
      value: taken.value,
      use: async (client: QueryClient) => await this.#port.use(client, this.#name, registration, taken),
      release: async () => {
        await this.#giveBack(registration, [taken], []).catch((error: unknown) => {
          // With the cluster, the registration has ended: the value is free.
          if (!(error instanceof ClosedError)) throw error
        })
      },
    })
  }

  async #giveBack(
    registration: Registration,
    taken: readonly Taken[],
    lost: readonly string[],
    bound?: AbortSignal,
  ): Promise<void> {
    let left = taken
    const ask = async (): Promise<void> => {
      const locked = await this.#port.giveBack(this.#name, registration, left, lost)
      left = left.filter(({ value }) => locked.includes(value))
      if (left.length > 0) throw new Error('A transaction has locked some of the values')
    }
    await untilAnswered(ask, { cluster: this.#cluster, ends: bound === undefined ? [] : [bound] })
  }

  #asking<T>(ask: (over: AbortSignal) => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    return untilAnswered(ask, { cluster: this.#cluster, signal, ends: [this.#closing.signal] })
  }
}
