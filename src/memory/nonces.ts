import type { QueryClient } from '../api/query-client.js'
import type { Registration } from '../api/registration.js'
import { fence } from '../engine/membership/fence-client.js'
import type { NoncesPort, Taken } from '../kit/ports.js'
import type { Cord } from './cord.js'
import type { PooledNonce, Table } from './table.js'

/** Nonces in memory. What belongs to a registration that has ended counts as free. */
export class MemoryNonces implements NoncesPort {
  readonly #table: Table
  readonly #cord: Cord

  constructor(table: Table, cord: Cord) {
    this.#table = table
    this.#cord = cord
  }

  async stock(pool: string, values: readonly string[]): Promise<number> {
    await this.#cord.pull()
    const nonces = this.#noncesOf(pool)
    const before = nonces.size
    for (const value of values) if (!nonces.has(value)) nonces.set(value, { isUsed: false })
    return nonces.size - before
  }

  /** No answer is ever lost after its question was done, so no batch is. */
  async take(
    pool: string,
    registration: Registration,
    batch: string,
    _lost: readonly string[],
    most: number,
  ): Promise<readonly string[] | undefined> {
    await this.#cord.pull()
    if (this.#table.find(registration) === undefined) return undefined
    const nonces = this.#noncesOf(pool)
    const free = [...nonces].filter(
      ([, { isUsed, taker }]) => !isUsed && (taker === undefined || this.#table.find(taker) === undefined),
    )
    const taken = free.slice(0, most).map(([value]) => value)
    for (const value of taken) nonces.set(value, { isUsed: false, taker: registration, batch })
    return taken
  }

  async giveBack(
    pool: string,
    registration: Registration,
    taken: readonly Taken[],
  ): Promise<readonly string[]> {
    await this.#cord.pull()
    for (const one of taken)
      if (this.#has(pool, registration, one)) this.#noncesOf(pool).set(one.value, { isUsed: false })
    return []
  }

  use(client: QueryClient, pool: string, registration: Registration, taken: Taken): Promise<void> {
    return fence(client, () => {
      if (this.#table.find(registration) !== undefined && this.#has(pool, registration, taken)) {
        this.#noncesOf(pool).set(taken.value, { isUsed: true })
        return Promise.resolve()
      }
      const { id, token } = registration
      const error = new Error(
        `registration ${String(token)} of member ${id} does not have this nonce any more`,
      )
      return Promise.reject(Object.assign(error, { code: 'MB001' }))
    })
  }

  #noncesOf(pool: string): Map<string, PooledNonce> {
    const nonces = this.#table.nonces.get(pool) ?? new Map<string, PooledNonce>()
    this.#table.nonces.set(pool, nonces)
    return nonces
  }

  #has(pool: string, { id, token }: Registration, { value, batch }: Taken): boolean {
    const nonce = this.#noncesOf(pool).get(value)
    return nonce?.batch === batch && nonce.taker?.id === id && nonce.taker.token === token
  }
}
