import type { QueryClient } from '../api/query-client.js'
import type { Registration } from '../api/registration.js'
import { fence } from '../engine/membership/fence-client.js'
import type { ClaimsPort } from '../kit/ports.js'
import type { Cord } from './cord.js'
import type { Table } from './table.js'

/** Claims in memory. What belongs to a registration that has ended counts as free, and is not deleted. */
export class MemoryClaims implements ClaimsPort {
  readonly #table: Table
  readonly #cord: Cord

  constructor(table: Table, cord: Cord) {
    this.#table = table
    this.#cord = cord
  }

  async claim(
    space: string,
    registration: Registration,
    keys: readonly string[],
  ): Promise<readonly string[] | undefined> {
    await this.#cord.pull()
    if (this.#table.find(registration) === undefined) return undefined
    const owners = this.#ownersIn(space)
    for (const key of keys) if (this.#ownerOf(space, key) === undefined) owners.set(key, registration)
    return keys.filter((key) => this.#isOwn(space, registration, key))
  }

  async release(
    space: string,
    registration: Registration,
    keys: readonly string[],
  ): Promise<readonly string[]> {
    await this.#cord.pull()
    for (const key of keys) if (this.#isOwn(space, registration, key)) this.#ownersIn(space).delete(key)
    return []
  }

  async owner(space: string, key: string): Promise<Registration | undefined> {
    await this.#cord.pull()
    return this.#ownerOf(space, key)
  }

  fence(
    client: QueryClient,
    space: string,
    registration: Registration,
    keys: readonly string[],
  ): Promise<void> {
    return fence(client, () => {
      const isCurrent = this.#table.find(registration) !== undefined
      if (isCurrent && keys.every((key) => this.#isOwn(space, registration, key))) return Promise.resolve()
      const { id, token } = registration
      const error = new Error(
        `not all of the keys are claimed by registration ${String(token)} of member ${id}`,
      )
      return Promise.reject(Object.assign(error, { code: 'MB002' }))
    })
  }

  #ownersIn(space: string): Map<string, Registration> {
    const { claims } = this.#table
    const owners = claims.get(space) ?? new Map<string, Registration>()
    claims.set(space, owners)
    return owners
  }

  #ownerOf(space: string, key: string): Registration | undefined {
    const owner = this.#ownersIn(space).get(key)
    return owner !== undefined && this.#table.find(owner) !== undefined ? owner : undefined
  }

  #isOwn(space: string, { id, token }: Registration, key: string): boolean {
    const owner = this.#ownerOf(space, key)
    return owner?.id === id && owner.token === token
  }
}
