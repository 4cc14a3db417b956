/** The object that users get: it checks arguments, and passes them on. They can reach nothing else through it. */
import type { Lease } from '../../api/lease.js'
import type { Membership } from '../../api/membership.js'
import type { QueryClient } from '../../api/query-client.js'
import type { WaitOptions } from '../../api/wait-options.js'
import { checkWaitOptions } from '../options.js'
import { storableData } from './data.js'
import { fence } from './fence-client.js'
import type { OwnMembership } from './own-membership.js'

export class ClusterMembership implements Membership {
  readonly id: string
  readonly #own: OwnMembership

  constructor(own: OwnMembership) {
    this.id = own.id
    this.#own = own
  }

  get data(): string {
    return this.#own.data
  }

  get lease(): Lease | undefined {
    return this.#own.lease
  }

  async whenRegistered(options: WaitOptions = {}): Promise<Lease> {
    checkWaitOptions(options)
    return await this.#own.whenRegistered(options)
  }

  async register(options: WaitOptions = {}): Promise<Lease> {
    checkWaitOptions(options)
    return await this.#own.register(options)
  }

  async deregister(options: WaitOptions = {}): Promise<void> {
    checkWaitOptions(options)
    await this.#own.deregister(options)
  }

  async setData(data: string, options: WaitOptions = {}): Promise<void> {
    checkWaitOptions(options)
    await this.#own.setData(storableData(data), options)
  }

  async fence(client: QueryClient): Promise<void> {
    await fence(client, () => this.#own.fence(client))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#own.dispose()
  }
}
