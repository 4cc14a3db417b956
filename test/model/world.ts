/** The real system: a server, networks that can be broken, and processes behind them. */
import pg from 'pg'
import { type MembershipOptions, migrate } from 'pg-membership'
import type { AdminClient } from '../support/database.js'
import { type PostgresServer, startPostgres } from '../support/postgres-server.js'
import { startProxy, type TcpProxy } from '../support/tcp-proxy.js'
import { until } from '../support/until.js'
import { Broken } from './broken.js'
import type { History } from './history.js'
import { Log } from './log.js'
import { type MembershipModel, ProcessModel } from './model.js'
import { forkProcess, type Process, type ProcessCommands } from './process.js'
import { createRoles, RESTORED, urlOf } from './roles.js'
import { CLUSTERS, PLACES } from './stage.js'
import type { Role } from './steps.js'
import { Troubles } from './troubles.js'

export const CLOSE_TIMEOUT_MS = 1_000

const WORK = `create table work (
  n bigserial primary key, cluster text not null, member uuid not null, token bigint not null,
  first boolean not null, fenced_at timestamptz not null, done_at timestamptz
);
grant all on work, work_n_seq to public`

export interface Inhabitant {
  readonly model: ProcessModel
  readonly process: Process
}

export class World implements AsyncDisposable {
  readonly history: History
  readonly server: PostgresServer
  readonly proxies: readonly TcpProxy[]
  readonly troubles = new Troubles()
  readonly logs = new Map(CLUSTERS.map((cluster) => [cluster as string, new Log(cluster)]))
  readonly inhabitants: Inhabitant[] = []
  /** Ids that an administrator deletes. */
  readonly removed = new Set<string>()
  /** Ids of members that nobody keeps: they were typed in. */
  readonly typed = new Set<string>()
  /** The schedule has deleted a part of the logs. */
  wasTrimmed = false
  /** Calls that were not answered yet, and what they are. */
  readonly pending = new Map<Promise<unknown>, string>()
  /** What somebody else holds locked. */
  readonly locks = new Set<Promise<unknown>>()
  #failure: Error | undefined
  #admin: Promise<AdminClient> | undefined

  private constructor(history: History, server: PostgresServer, proxies: readonly TcpProxy[]) {
    this.history = history
    this.server = server
    this.proxies = proxies
  }

  static async create(history: History): Promise<World> {
    const server = await startPostgres({ fsync: false })
    await migrate({ connection: server.url })
    const proxies = await Promise.all(PLACES.map(() => startProxy(server.url)))
    const world = new World(history, server, proxies)
    const admin = await world.admin()
    await admin.query(WORK)
    await createRoles(server, admin)
    return world
  }

  /** The first thing that was found to be wrong outside of a check. */
  get failure(): Error | undefined {
    return this.#failure
  }

  fail(error: Error): void {
    this.#failure ??= error
  }

  get living(): readonly Inhabitant[] {
    return this.inhabitants.filter(({ model }) => model.lives)
  }

  of(number: number): Inhabitant {
    const found = this.inhabitants.find(({ model }) => model.number === number)
    if (found === undefined) throw new Error(`there was no process ${number}`)
    return found
  }

  membership(step: { readonly process: number; readonly membership: number }): MembershipModel {
    const found = this.of(step.process).model.memberships[step.membership]
    if (found === undefined) throw new Error(`process ${step.process} never had that many memberships`)
    return found
  }

  logOf(cluster: string): Log {
    const log = this.logs.get(cluster)
    if (log === undefined) throw new Error(`no cluster ${cluster}`)
    return log
  }

  /** A connection past all proxies; a new one after the server was away. */
  async admin(): Promise<AdminClient> {
    const connecting = (this.#admin ??= this.connect(() => {
      if (this.#admin === connecting) this.#admin = undefined
    }))
    return await connecting
  }

  async connect(ended: () => void = () => undefined): Promise<AdminClient> {
    const client = new pg.Client({ connectionString: this.server.url, application_name: 'administrator' })
    client.on('error', () => undefined)
    client.once('end', ended)
    try {
      await client.connect()
    } catch (error) {
      ended()
      throw error
    }
    // Who looks and who breaks share it. pg warns where a statement waits behind one that waits.
    const query = client.query.bind(client) as (...args: unknown[]) => Promise<unknown>
    let last: Promise<unknown> = Promise.resolve()
    const inTurn = (...args: unknown[]): Promise<unknown> => {
      const result = last.then(() => query(...args))
      last = result.catch(() => undefined)
      return result
    }
    return Object.assign(client, {
      query: inTurn as typeof client.query,
      [Symbol.asyncDispose]: () => client.end(),
    })
  }

  /** The logs, as far as they have come. */
  async follow(): Promise<void> {
    const admin = await this.admin()
    for (const log of this.logs.values()) await log.follow(admin)
  }

  /** The server accepts connections. */
  async started(): Promise<void> {
    await until(async () => (await this.admin()).query('select 1'), {
      withinMs: 60_000,
      message: 'the server accepts connections again',
    })
  }

  /** The networks of these places. */
  in(places: readonly number[]): readonly TcpProxy[] {
    return this.proxies.filter((_, place) => places.includes(place))
  }

  /** Of a place, for a process in this role: it is a member's or a reader's. */
  urlOf(place: number, { memberships }: Role): string {
    const url = this.proxies[place]?.url(this.server.url) ?? ''
    return urlOf(url, memberships.length > 0 ? 'member' : 'reader')
  }

  /** What was taken from the roles is given back. */
  async restore(): Promise<void> {
    const admin = await this.admin()
    await admin.query(RESTORED)
  }

  inhabit(number: number, place: number, role: Role): void {
    this.inhabitants.push({ model: new ProcessModel(number, place, role), process: forkProcess() })
    this.open(number, role)
  }

  /** Opens its cluster; whatever it had open is closed. */
  open(number: number, role: Role): void {
    const { model } = this.of(number)
    const added = model.opened(role)
    const memberships = role.memberships.map((onLost): MembershipOptions => ({ onLost }))
    const { cluster: name, ttlMs, crashGraceMs, listens } = role
    const connection = this.urlOf(model.place, role)
    const options = { name, ttlMs, crashGraceMs, connection, closeTimeoutMs: CLOSE_TIMEOUT_MS, memberships }
    this.ask(number, 'open', listens ? options : { ...options, listenConnection: false }, ({ ids }) => {
      for (const [n, membership] of added.entries()) membership.id = ids[n]
    })
  }

  /** In the order of the calls, from when it is ready. What comes after its death is not waited for. */
  ask<K extends keyof ProcessCommands>(
    number: number,
    command: K,
    parameters: ProcessCommands[K]['parameters'],
    answered: (result: ProcessCommands[K]['result']) => void = () => undefined,
  ): void {
    const { model, process } = this.of(number)
    const send = process.ask.bind(process) as (
      command: K,
      parameters: unknown,
    ) => Promise<ProcessCommands[K]['result']>
    const asked = process.ready
      .then(() => send(command, parameters))
      .then(answered)
      .catch((error: unknown) => {
        if (model.lives) this.fail(error instanceof Broken ? error : new Broken(12, String(error)))
      })
      .finally(() => this.pending.delete(asked))
    this.pending.set(asked, `${command} of process ${number}`)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.inhabitants.map(({ process }) => process.kill()))
    const admin = await this.#admin?.catch(() => undefined)
    await admin?.end().catch(() => undefined)
    await Promise.all(this.proxies.map((proxy) => proxy[Symbol.asyncDispose]()))
    await this.server[Symbol.asyncDispose]()
  }
}
