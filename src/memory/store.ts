import type { QueryClient } from '../api/query-client.js'
import type { Registration } from '../api/registration.js'
import type { Callbacks } from '../engine/cluster-core.js'
import {
  type ChangesReading,
  type DataSet,
  type Delta,
  type Departure,
  type Heartbeat,
  type LogReading,
  type MembersReading,
  type Position,
  type Registered,
  type Store,
  type Sweep,
  untold,
} from '../engine/store.js'
import type { Cord } from './cord.js'
import type { Table } from './table.js'

/** What a cluster asks, answered from a table in memory. */
export class MemoryStore implements Store {
  readonly #table: Table
  readonly #cord: Cord

  constructor(table: Table, cord: Cord) {
    this.#table = table
    this.#cord = cord
  }

  start(callbacks: Callbacks): () => void {
    const hint = (): void => {
      if (this.#cord.isWhole) callbacks.hint()
    }
    this.#cord.callbacks = callbacks
    this.#table.hints.add(hint)
    callbacks.hearing(this.#cord.isWhole)
    return () => this.#table.hints.delete(hint)
  }

  async readChanges(since: Position, _told: readonly Position[], upTo?: number): Promise<ChangesReading> {
    await this.#cord.pull()
    return this.#table.readChanges(since, upTo)
  }

  async readMembers(after: number): Promise<MembersReading> {
    await this.#cord.pull()
    return this.#table.readMembers(after)
  }

  async readLog(after?: Position): Promise<LogReading> {
    await this.#cord.pull()
    return this.#table.readLog(after)
  }

  async heartbeat(registrations: readonly Registration[]): Promise<Heartbeat> {
    await this.#cord.pull()
    const missing = registrations.filter((registration) => this.#table.find(registration) === undefined)
    return {
      ...this.#table.sighting,
      locked: [],
      missing: new Map(missing.map((registration) => [registration.id, this.#table.reasonOf(registration)])),
    }
  }

  async register(
    wanted: readonly { readonly id: string; readonly data: string; readonly floor: number }[],
  ): Promise<Registered> {
    await this.#cord.pull()
    const tokens = wanted.map(({ id, data, floor }) => [id, this.#table.register(id, data, floor)] as const)
    return { tokens: new Map(tokens), evictions: new Map(), delta: this.#untold() }
  }

  async setData(wanted: readonly (Registration & { readonly data: string })[]): Promise<DataSet> {
    await this.#cord.pull()
    for (const { data, ...registration } of wanted) this.#table.setData(registration, data)
    return { pending: [], delta: this.#untold() }
  }

  async deregister(registrations: readonly Registration[]): Promise<Departure> {
    await this.#cord.pull()
    for (const { id, token } of registrations) {
      this.#table.remove((member) => member.id === id && member.token === token, 'deregistered')
    }
    return { pending: [], obstacles: [], delta: this.#untold() }
  }

  async sweep(): Promise<Sweep> {
    await this.#cord.pull()
    return { waitMs: Infinity, removed: 0, obstacles: [] }
  }

  /** Readers refresh, which costs no more here than a delta with changes. */
  #untold(): Delta {
    return untold(this.#table.sighting)
  }

  fence(_client: QueryClient, registration: Registration): Promise<void> {
    if (this.#table.find(registration) !== undefined) return Promise.resolve()
    const { id, token } = registration
    const error = new Error(`registration ${String(token)} of member ${id} is not current`)
    return Promise.reject(Object.assign(error, { code: 'MB001' }))
  }
}
