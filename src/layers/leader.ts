/**
 * The leader of a cluster: its oldest registration, which is `members[0]` of every snapshot.
 *
 * @module pg-membership/leader
 */
import type { Cluster } from '../api/cluster.js'
import type { Lease } from '../api/lease.js'
import type { Registering } from '../api/membership.js'
import type { QueryClient } from '../api/query-client.js'
import type { WaitOptions } from '../api/wait-options.js'
import { checkMembership } from '../kit/asking.js'
import { Latest } from '../kit/latest.js'
import { checkWaitOptions } from '../kit/options.js'
import { type Ports, portsOf } from '../kit/ports.js'
import { allowManyListeners, onAbort } from '../kit/waiting.js'

export type { Registering }

/** A time during which this process may believe that its registration leads. */
export interface Term {
  /** Of the registration that leads. A later leader has a higher token. */
  readonly token: number
  /**
   * Aborts when this registration is no longer first in this process's snapshot, when its lease ends, or after
   * `resign`. Another process may lead already when it aborts: only `fence` protects what is written.
   */
  readonly signal: AbortSignal
  /**
   * Inside the caller's transaction: fails unless this very registration is still current and unexpired, and keeps it
   * from being removed until the transaction ends. So no later leader's fenced transaction runs at the same time. Call
   * it first in the transaction, outside savepoints. The server ends a transaction that then idles for too long, as with
   * `Membership.fence`.
   *
   * @throws As `Membership.fence` does: the client's own error with code 'MB001' or '55P03', or TypeError.
   */
  fence(client: QueryClient): Promise<void>
}

interface Present {
  readonly term: Term
  readonly lease: Lease
  readonly end: (reason: unknown) => void
}

/**
 * Tells when a membership leads its cluster. Make one for each membership, and keep it: it follows the cluster until
 * that closes. Members that are to lead never are in a cluster of another name.
 *
 * @example
 * import { PostgresCluster } from 'pg-membership'
 * import { Leader } from 'pg-membership/leader'
 *
 * const cluster = new PostgresCluster({ connection: 'postgres://localhost/app', name: 'workers' })
 * const membership = cluster.createMembership()
 * await membership.register()
 * for await (const term of new Leader(cluster, membership).terms()) {
 *   while (!term.signal.aborted) console.log(term.token) // work, in transactions that begin with term.fence(client)
 * }
 */
export class Leader {
  readonly #cluster: Cluster
  readonly #membership: Registering
  readonly #ports: Ports
  readonly #terms = new Latest<Term>((a, b) => a === b)
  #present: Present | undefined
  #followsMembers = false
  #followsLeases = false
  /** The token that it gives up, while it does. */
  #resigned = 0
  #resigning: Promise<void> | undefined

  /** @throws TypeError for a cluster that is none of this package (a typed view, too), OptionError for what is no membership. */
  constructor(cluster: Cluster, membership: Registering) {
    this.#ports = portsOf(cluster)
    checkMembership(membership)
    this.#cluster = cluster
    this.#membership = membership
  }

  /** The present term of this membership; undefined while another leads. */
  get term(): Term | undefined {
    return this.#look()
  }

  /**
   * This membership's terms, each when it begins; one that ended before it was asked for is left out. It does not
   * register. Subscribes on the first `next()`. Ends normally when the signal aborts, when the loop breaks, or when
   * the cluster closes.
   *
   * @throws ConnectionError or SchemaError at a step, as `watchMembers` does, when the database can never answer.
   */
  terms(options: WaitOptions = {}): AsyncIterableIterator<Term> {
    checkWaitOptions(options)
    return this.#terms.watch(options, () => {
      this.#follow()
      this.#look()
    })
  }

  /**
   * Gives up the lead, and goes to the end of the line: the term ends at once, then the membership deregisters and
   * registers again, with a higher token. Resolves when it is registered again. A no-op unless the
   * snapshot shows this membership as the first.
   *
   * @throws As `deregister` and `register` do. If the signal aborts, the membership may stay deregistered. A call while
   * another one is under way has the same outcome.
   */
  async resign(options: WaitOptions = {}): Promise<void> {
    checkWaitOptions(options)
    const first = this.#cluster.snapshot?.members[0]
    // Also while its lease is lost: the same registration could be trusted, and lead, again.
    if (first?.id === this.#membership.id) this.#resigning ??= this.#resign(first.token, options)
    await this.#resigning
  }

  async #resign(token: number, options: WaitOptions): Promise<void> {
    this.#resigned = token
    this.#present?.end(new Error('This registration has resigned'))
    try {
      // If somebody calls register() meanwhile, it may keep its token.
      let lease: Lease
      do {
        await this.#membership.deregister(options)
        lease = await this.#membership.register(options)
      } while (lease.token <= token)
    } finally {
      this.#resigned = 0
      this.#resigning = undefined
      this.#look()
    }
  }

  /** Begins and ends terms, as the lease and the snapshot say. */
  #look(first = this.#cluster.snapshot?.members[0]): Term | undefined {
    const { lease } = this.#membership
    const leads =
      lease !== undefined &&
      lease.token > this.#resigned &&
      first?.id === this.#membership.id &&
      first.token === lease.token
    const present = this.#present
    if (present !== undefined && (!leads || present.lease !== lease)) {
      present.end(new Error('The snapshot does not show this registration as the first any more'))
    }
    if (leads && this.#present === undefined) this.#begin(lease)
    return this.#present?.term
  }

  #begin(lease: Lease): void {
    const { token } = lease
    const registration = { id: this.#membership.id, token }
    const controller = new AbortController()
    allowManyListeners(controller.signal)
    let release = (): void => undefined
    const end = (reason: unknown): void => {
      if (this.#present === present) {
        this.#present = undefined
        this.#terms.clear()
      }
      release()
      controller.abort(reason)
    }
    const term: Term = Object.freeze({
      token,
      signal: controller.signal,
      fence: (client: QueryClient) => this.#ports.fence(client, registration),
    })
    const present = (this.#present = { term, lease, end })
    release = onAbort(lease.signal, () => end(lease.signal.reason))
    this.#terms.publish(term)
    this.#follow()
  }

  /** From the first use until the cluster closes. */
  #follow(): void {
    if (!this.#followsMembers) void this.#followMembers()
    if (!this.#followsLeases) void this.#followLeases()
  }

  async #followMembers(): Promise<void> {
    this.#followsMembers = true
    try {
      for await (const members of this.#cluster.watchMembers()) this.#look(members[0])
      this.#terms.end()
    } catch (error) {
      this.#followsMembers = false
      this.#terms.fail(error as Error)
    }
  }

  /** A lease that ends and begins again may leave the members as they are. */
  async #followLeases(): Promise<void> {
    this.#followsLeases = true
    try {
      for (;;) {
        const { signal } = await this.#membership.whenRegistered()
        this.#look()
        await new Promise<void>((resolve) => onAbort(signal, resolve))
      }
    } catch {
      // The cluster is closed.
    }
  }
}
