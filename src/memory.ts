/**
 * Clusters in memory, for tests of code that uses this library: the same code runs on top, only the
 * database is replaced. Nothing expires by itself and no timer runs: a test removes members, or cuts a
 * cluster off, when it wants to.
 *
 * @module pg-membership/memory
 */
import { randomUUID } from 'node:crypto'
import type { Cluster } from './cluster.js'
import { ClusterCore, type Wires } from './cluster-core.js'
import type { LossReason } from './errors.js'
import type { Member } from './member.js'
import { checkOptions, clusterName, refuse, type Timing } from './options.js'
import type { QueryClient } from './query-client.js'
import { Report } from './report.js'
import type { Change } from './snapshot.js'
import {
  untold,
  type ChangesReading,
  type DataSet,
  type Delta,
  type Departure,
  type Heartbeat,
  type MembersReading,
  type Position,
  type Registered,
  type Registration,
  type Sighting,
  type Store,
  type Sweep,
} from './store.js'

/** What clusters are in. Those made with the same world and name see one another. */
export class MemoryWorld {
  /** Takes a member away as others would: its owner learns that it was lost, and why. */
  remove(id: string, reason: 'expired' | 'crashed' | 'removed' = 'removed'): void {
    for (const table of tablesOf(this).values()) table.remove((member) => member.id === id, reason)
  }

  /** Cuts a cluster off: its leases end as 'unreachable', and it neither hears nor changes anything. */
  disconnect(cluster: MemoryCluster): void {
    cordOf(cluster).cut()
  }

  /** It finds out at once what became of its registrations meanwhile. */
  reconnect(cluster: MemoryCluster): void {
    cordOf(cluster).join()
  }
}

/**
 * A `Cluster` in one process.
 *
 * `fence` checks that the registration is current and throws an error with the code 'MB001' otherwise;
 * there is no transaction that it could protect.
 *
 * @throws OptionError for a bad option.
 */
export class MemoryCluster extends ClusterCore implements Cluster {
  constructor(options: { readonly name: string; readonly world?: MemoryWorld }) {
    checkOptions('MemoryCluster', options, ['name', 'world'])
    const name = clusterName(options.name)
    const { world = new MemoryWorld() } = options
    if (!(world instanceof MemoryWorld)) refuse('world', world, 'be a MemoryWorld')
    const cord = new Cord()
    const report = new Report(name, undefined)
    const store = new MemoryStore(tableOf(world, name), cord)
    super({
      name,
      store,
      timing: NEVER,
      report,
      onSurprise: () => undefined,
      disconnect: () => Promise.resolve(),
      connect: (wires) => store.connect(wires),
    })
    cords.set(this, cord)
  }
}

const NEVER: Timing = {
  ttlMs: Infinity,
  heartbeatMs: Infinity,
  pollMs: Infinity,
  crashGraceMs: false,
  closeTimeoutMs: 100,
}

/** Between a cluster and its world. */
class Cord {
  wires: Wires | undefined
  #whole = true

  cut(): void {
    if (!this.#whole) return
    this.#whole = false
    this.wires?.distrust()
    this.wires?.hearing(false)
    this.wires?.reconnect()
  }

  join(): void {
    this.#whole = true
    this.wires?.hearing(true)
    this.wires?.reconnect()
  }

  get isWhole(): boolean {
    return this.#whole
  }

  async pull(): Promise<void> {
    // As a database answers: not in the caller's turn.
    await Promise.resolve()
    if (!this.#whole) throw new Error('The cluster is cut off from its world')
  }
}

/** One cluster's rows and log. */
class Table {
  readonly members = new Map<string, Member>()
  readonly hints = new Set<() => void>()
  readonly #log: {
    readonly position: Position
    readonly change: Change
    readonly reason: LossReason | undefined
  }[] = []
  #lastToken = 0

  get sighting(): Sighting {
    return { ...(this.#log.at(-1)?.position ?? { revision: 0, stamp: '' }), sweepOverdue: false }
  }

  readChanges(since: Position, upTo?: number): ChangesReading {
    const read = this.#log.slice(since.revision, upTo)
    return {
      ...this.sighting,
      history: 'same',
      changes: read.map(({ change }) => change),
      reached: read.at(-1)?.position ?? since,
    }
  }

  readMembers(after: number): MembersReading {
    const members = [...this.members.values()].filter(({ token }) => token > after)
    members.sort((a, b) => a.token - b.token)
    return { ...this.sighting, history: 'same', members, complete: true, recovering: false }
  }

  register(id: string, data: string, floor: number): number {
    const present = this.members.get(id)
    if (present !== undefined && present.token > floor) return present.token
    this.remove((member) => member.id === id, 'superseded')
    const token = Math.max(this.sighting.revision + 1, this.#lastToken + 1, floor + 1)
    this.#lastToken = token
    const member = { id, data, token, registeredAt: new Date().toISOString() }
    this.members.set(id, member)
    this.#record('joined', member)
    return token
  }

  setData(registration: Registration, data: string): void {
    const present = this.find(registration)
    if (present === undefined || present.data === data) return
    const member = { ...present, data }
    this.members.set(member.id, member)
    this.#record('updated', member)
  }

  remove(which: (member: Member) => boolean, reason: LossReason | undefined): void {
    for (const member of [...this.members.values()].filter(which)) {
      this.members.delete(member.id)
      this.#record('left', member, reason)
    }
  }

  find({ id, token }: Registration): Member | undefined {
    const member = this.members.get(id)
    return member?.token === token ? member : undefined
  }

  reasonOf({ id, token }: Registration): LossReason {
    const event = this.#log.findLast(
      ({ change: { kind, member } }) => kind === 'left' && member.id === id && member.token === token,
    )
    return event?.reason ?? 'removed'
  }

  #record(kind: Change['kind'], member: Member, reason?: LossReason): void {
    const position = { revision: this.sighting.revision + 1, stamp: randomUUID() }
    this.#log.push({ position, change: { kind, member }, reason })
    for (const hint of [...this.hints]) hint()
  }
}

class MemoryStore implements Store {
  readonly #table: Table
  readonly #cord: Cord

  constructor(table: Table, cord: Cord) {
    this.#table = table
    this.#cord = cord
  }

  connect(wires: Wires): () => void {
    const hint = (): void => {
      if (this.#cord.isWhole) wires.hint()
    }
    this.#cord.wires = wires
    this.#table.hints.add(hint)
    wires.hearing(this.#cord.isWhole)
    return () => this.#table.hints.delete(hint)
  }

  async readChanges(since: Position, upTo?: number): Promise<ChangesReading> {
    await this.#cord.pull()
    return this.#table.readChanges(since, upTo)
  }

  async readMembers(after: number): Promise<MembersReading> {
    await this.#cord.pull()
    return this.#table.readMembers(after)
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
    return { tokens: new Map(tokens), delta: this.#untold() }
  }

  async setData(wanted: readonly (Registration & { readonly data: string })[]): Promise<DataSet> {
    await this.#cord.pull()
    for (const { data, ...registration } of wanted) this.#table.setData(registration, data)
    return { pending: [], delta: this.#untold() }
  }

  async deregister(registrations: readonly Registration[]): Promise<Departure> {
    await this.#cord.pull()
    for (const { id, token } of registrations) {
      this.#table.remove((member) => member.id === id && member.token === token, undefined)
    }
    return { pending: [], obstacles: [], delta: this.#untold() }
  }

  async sweep(): Promise<Sweep> {
    await this.#cord.pull()
    return { waitMs: Infinity, removed: 0, obstacles: [] }
  }

  /** Readers look: it costs no more. */
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

const worlds = new WeakMap<MemoryWorld, Map<string, Table>>()
const cords = new WeakMap<MemoryCluster, Cord>()

function tablesOf(world: MemoryWorld): Map<string, Table> {
  const tables = worlds.get(world) ?? new Map<string, Table>()
  worlds.set(world, tables)
  return tables
}

function tableOf(world: MemoryWorld, name: string): Table {
  const tables = tablesOf(world)
  const table = tables.get(name) ?? new Table()
  tables.set(name, table)
  return table
}

function cordOf(cluster: MemoryCluster): Cord {
  const cord = cords.get(cluster)
  if (cord === undefined) throw new TypeError('Not a MemoryCluster')
  return cord
}
