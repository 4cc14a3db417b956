/** A cluster's queries, in Kysely: those that read in pages are in pages.ts and log.ts. The rules are in schema/*.sql. */
import { Kysely, PostgresDialect, type RawBuilder, sql } from 'kysely'
import type { QueryClient } from '../api/query-client.js'
import type { Registration } from '../api/registration.js'
import type { Timing } from '../engine/options.js'
import type {
  ChangesReading,
  DataSet,
  Departure,
  Heartbeat,
  LogReading,
  MembersReading,
  Position,
  Registered,
  Store,
  Sweep,
} from '../engine/store.js'
import { monotonicMs, sharedMoment } from '../kit/clock.js'
import type { MembersChannel } from './announcements.js'
import type { SharedConnections } from './connection/shared-connections.js'
import { answerOf } from './errors.js'
import { array, contents, ids, isoTime, timeColumn, tokens } from './fragments.js'
import { quoteIdentifier } from './identifier.js'
import { Log } from './log.js'
import { Pages } from './pages.js'
import { deltaOf, type DeltaRow, one, strings } from './rows.js'
import { SharedStatements } from './shared-statements.js'

/** A turn to sweep may be taken this much sooner, to go together with those of other clusters. */
const SWEEP_GRID_MS = 100

// Each statement begins with a comment, which also names the prepared statement (single-connection.ts).

/** The server's time after the statement's work: it tells a registration that begins later from an earlier one. */
const SERVER_MS = sql`extract(epoch from pg_catalog.clock_timestamp()) operator(pg_catalog.*) 1000`

interface RegisterRow extends DeltaRow {
  readonly id: string
  readonly token: string | null
  readonly registered_at: string
  /** null: it is not evicted. */
  readonly evicted_by: string | null
  readonly note: string | null
  readonly until: string | null
}

export class PostgresStore implements Store {
  readonly #heartbeats: Kysely<unknown>
  readonly #pages: Pages
  readonly #log: Log
  /** For claims and nonces, too. */
  readonly writes: Kysely<unknown>
  readonly #shared: SharedStatements
  readonly #connections: SharedConnections
  readonly #cluster: string
  readonly #schema: string
  readonly #timing: Timing
  /** Called when the members' channel has another name and key than this process was told. */
  onRenewedChannel: () => void = () => undefined
  /** Of the members' channel, as it was told with name and key; null: before the cluster's first change. */
  #channelStamp: string | null | undefined

  constructor(connections: SharedConnections, schema: string, cluster: string, timing: Timing) {
    this.#connections = connections
    this.#shared = SharedStatements.of(connections, schema)
    this.#schema = schema
    this.#cluster = cluster
    this.#timing = timing
    this.#heartbeats = new Kysely({ dialect: new PostgresDialect({ pool: connections.heartbeats }) })
    this.#pages = new Pages(this.#heartbeats, schema, cluster, (stamp) => this.#toldChannel(stamp))
    this.#log = new Log(this.#heartbeats, schema, cluster)
    this.writes = new Kysely({ dialect: new PostgresDialect({ pool: connections.writes }) })
  }

  /** The channel of hints; only the database computes its name. */
  async channel(): Promise<string> {
    const { rows } = await sql<{ channel: string }>`
      -- channel
      select ${this.#name('channel')}(${this.#cluster}) as channel`.execute(this.#heartbeats)
    return one(rows).channel
  }

  /** The channel of announcements, if this role may hear them: only members may. */
  async membersChannel(hints: string): Promise<MembersChannel | undefined> {
    const signature = `${quoteIdentifier(this.#schema)}.members_channel(pg_catalog.text)`
    const { rows } = await sql<{ allowed: 't' | 'f' }>`
      -- may hear
      select pg_catalog.has_function_privilege(${signature}, 'execute') as allowed`.execute(this.#heartbeats)
    this.#channelStamp = undefined
    if (one(rows).allowed !== 't') return undefined
    const { rows: channels } = await sql<{ name: string; key: string; stamp: string | null }>`
      -- members channel
      select name, pg_catalog.encode(key, 'hex') as key, stamp
      from ${this.#name('members_channel')}(${this.#cluster})`.execute(this.#heartbeats)
    const { name, key, stamp } = one(channels)
    this.#channelStamp = stamp
    return { name, key: Buffer.from(key, 'hex'), hints }
  }

  readChanges(since: Position, told: readonly Position[], upTo?: number): Promise<ChangesReading> {
    return answerOf(this.#pages.readChanges(since, told, upTo))
  }

  readMembers(after: number, told: readonly Position[], since?: Position): Promise<MembersReading> {
    return answerOf(this.#pages.readMembers(after, told, since))
  }

  readLog(after?: Position): Promise<LogReading> {
    return answerOf(this.#log.read(after))
  }

  async heartbeat(registrations: readonly Registration[]): Promise<Heartbeat> {
    const question = this.#shared.heartbeat(this.#cluster, registrations)
    const { channelStamp, ...heartbeat } = await answerOf(question)
    this.#toldChannel(channelStamp)
    return heartbeat
  }

  async register(
    wanted: readonly { readonly id: string; readonly data: string; readonly floor: number }[],
  ): Promise<Registered> {
    const { ttlMs, crashGraceMs } = this.#timing
    const { writes, session } = this.#connections
    const { rows } = await answerOf(
      this.writes.connection().execute((db) =>
        sql<RegisterRow>`
      -- register
      select id, token, ${timeColumn(sql.ref('registered_at'))}, revision, stamp, previous_stamp,
        evicted_by, note, ${isoTime(sql.ref('until'))} as until
      from ${this.#name('register')}(
        ${this.#cluster}, ${ids(wanted)}, ${contents(wanted)}, ${array(
          wanted.map(({ floor }) => floor),
          'int8',
        )},
        ${ttlMs} operator(pg_catalog.*) interval '1 ms',
        ${crashGraceMs === false ? null : crashGraceMs}::double precision operator(pg_catalog.*) interval '1 ms',
        ${session}, ${writes.backendPid},
        pg_catalog.to_timestamp(${writes.serverMs}::double precision operator(pg_catalog./) 1000)
      )`.execute(db),
      ),
    )
    const data = new Map(wanted.map((one) => [one.id, one.data]))
    return {
      tokens: new Map(
        rows.flatMap(({ id, token, evicted_by }) =>
          evicted_by === null ? [[id, token === null ? undefined : Number(token)]] : [],
        ),
      ),
      evictions: new Map(
        rows.flatMap(({ id, evicted_by, note, until }) =>
          evicted_by === null
            ? []
            : [[id, { byRole: evicted_by, note: note ?? '', until: until ?? undefined }]],
        ),
      ),
      delta: deltaOf(
        rows[0],
        rows.map(({ id, token, registered_at }) => ({
          kind: 'joined',
          member: { id, data: data.get(id) ?? '', token: Number(token), registeredAt: registered_at },
        })),
      ),
    }
  }

  async setData(wanted: readonly (Registration & { readonly data: string })[]): Promise<DataSet> {
    const { rows } = await answerOf(
      sql<DeltaRow & { pending: string | null; id: string | null; registered_at: string }>`
      -- set_data
      select pg_catalog.to_json(pending) as pending, id, ${timeColumn(sql.ref('registered'))},
        revision, stamp, previous_stamp
      from ${this.#name('set_data')}(
        ${this.#cluster}, ${ids(wanted)}, ${tokens(wanted)}, ${contents(wanted)}
      ) s (pending, changed, times, revision, stamp, previous_stamp)
      left join rows from (pg_catalog.unnest(changed), pg_catalog.unnest(times)) change (id, registered) on true`.execute(
        this.writes,
      ),
    )
    const byId = new Map(wanted.map((one) => [one.id, one]))
    return {
      pending: strings(one(rows).pending),
      delta: deltaOf(
        rows[0],
        rows.flatMap(({ id, registered_at }) => {
          const set = byId.get(id ?? '')
          if (set === undefined) return []
          const { token, data } = set
          return [{ kind: 'updated', member: { id: set.id, data, token, registeredAt: registered_at } }]
        }),
      ),
    }
  }

  async deregister(registrations: readonly Registration[]): Promise<Departure> {
    const { rows } = await answerOf(
      sql<
        DeltaRow & {
          pending: string | null
          obstacles: string | null
          gone: string | null
          server_ms: string
        }
      >`
      -- deregister
      select pg_catalog.to_json(pending) as pending, pg_catalog.to_json(obstacles) as obstacles,
        pg_catalog.to_json(gone) as gone, revision, stamp, previous_stamp, ${SERVER_MS} as server_ms
      from ${this.#name('deregister')}(
        ${this.#cluster}, ${ids(registrations)}, ${tokens(registrations)}
      )`.execute(this.writes),
    )
    const row = one(rows)
    this.#connections.writes.heardClock(Number(row.server_ms))
    const byId = new Map(registrations.map(({ id, token }) => [id, token]))
    return {
      pending: strings(row.pending),
      obstacles: strings(row.obstacles),
      delta: deltaOf(
        row,
        strings(row.gone).map((id) => ({
          kind: 'left',
          member: { id, data: '', token: byId.get(id) ?? 0, registeredAt: '' },
        })),
      ),
    }
  }

  /** The connection for writes is opened only if there is something to do. */
  async sweep(): Promise<Sweep> {
    const waitMs = await answerOf(this.#shared.sweepIdle(this.#cluster))
    if (waitMs !== undefined) {
      const nowMs = monotonicMs()
      const dueMs = sharedMoment(nowMs + waitMs, SWEEP_GRID_MS)
      return { waitMs: dueMs > nowMs + SWEEP_GRID_MS ? dueMs - nowMs : waitMs, removed: 0, obstacles: [] }
    }
    const { rows } = await answerOf(
      sql<{
        wait_ms: string
        removed: string
        obstacles: string | null
        server_ms: string
      }>`
      -- sweep
      select wait_ms, removed, pg_catalog.to_json(obstacles) as obstacles, ${SERVER_MS} as server_ms
      from ${this.#name('sweep')}(${this.#cluster})`.execute(this.writes),
    )
    const { wait_ms, removed, obstacles, server_ms } = one(rows)
    this.#connections.writes.heardClock(Number(server_ms))
    return {
      waitMs: Number(wait_ms),
      removed: Number(removed),
      obstacles: strings(obstacles),
    }
  }

  async fence(client: QueryClient, { id, token }: Registration): Promise<void> {
    await client.query(`select ${quoteIdentifier(this.#schema)}.fence($1::pg_catalog.uuid, $2::bigint)`, [
      id,
      token,
    ])
  }

  #toldChannel(stamp: string | null): void {
    if (stamp === null || this.#channelStamp === undefined || stamp === this.#channelStamp) return
    this.onRenewedChannel()
  }

  #name(name: string): RawBuilder<unknown> {
    return sql.id(this.#schema, name)
  }
}
