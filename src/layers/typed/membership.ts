import type { Lease } from '../../api/lease.js'
import type { Membership } from '../../api/membership.js'
import type { QueryClient } from '../../api/query-client.js'
import type { WaitOptions } from '../../api/wait-options.js'
import type { Codec, TypedMembership } from './types.js'

export class EncodedMembership<T> implements TypedMembership<T> {
  readonly #membership: Membership
  readonly #codec: Codec<T>
  #data: T

  constructor(membership: Membership, codec: Codec<T>, data: T) {
    this.#membership = membership
    this.#codec = codec
    this.#data = data
  }

  get id(): string {
    return this.#membership.id
  }

  get data(): T {
    return this.#data
  }

  get lease(): Lease | undefined {
    return this.#membership.lease
  }

  whenRegistered(options?: WaitOptions): Promise<Lease> {
    return this.#membership.whenRegistered(options)
  }

  register(options?: WaitOptions): Promise<Lease> {
    return this.#membership.register(options)
  }

  deregister(options?: WaitOptions): Promise<void> {
    return this.#membership.deregister(options)
  }

  async setData(data: T, options?: WaitOptions): Promise<void> {
    const encoded = this.#codec.encode(data)
    const set = this.#membership.setData(encoded, options)
    // Set, though it has not been sent yet: unless it was refused.
    if (this.#membership.data === encoded) this.#data = data
    await set
  }

  fence(client: QueryClient): Promise<void> {
    return this.#membership.fence(client)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#membership[Symbol.asyncDispose]() as Promise<void>
  }
}
