/** Every query of a cluster, in Kysely; rows to members. The rules are in migrations/*.sql. */
import { Kysely, PostgresDialect, sql, type RawBuilder } from 'kysely'
import type { MembersChannel } from './announcements.js'
import { monotonicMs, sharedMoment } from '../kit/clock.js'
import type { QueryClient } from '../api/query-client.js'
import { storeError } from './errors.js'
import type { SharedConnections } from './connection/shared-connections.js'
import { SharedStatements } from './shared-statements.js'
import type { Timing } from '../engine/options.js'
import { checkSchemaVersion } from './schema/version.js'
import { quoteIdentifier } from './identifier.js'
import type { Change } from '../api/change.js'
import {
  deltaOf,
  historyOf,
  memberOf,
  one,
  sightingOf,
  strings,
  type DeltaRow,
  type HeadRow,
  type MemberRow,
} from './rows.js'
import type {
  ChangesReading,
  DataSet,
  Departure,
  Heartbeat,
  MembersReading,
  Position,
  Registered,
  Registration,
  Store,
  Sweep,
} from '../engine/store.js'

/** One statement reads at most this many rows, and no more than the largest member, which has to fit anyway. */
const PAGE_ROWS = 2_000
const PAGE_BYTES = 1_048_576
/** Of what a row is beside its data, about. */
const ROW_BYTES = 100
/** Turns to sweep are taken up to this much sooner, together with those of other clusters. */
const SWEEP_GRID_MS = 100
const MAX_BIGINT = '9223372036854775807'

// Each statement begins with its name, which is also that of the prepared one (single-connection.ts).

/** After what the statement has done: a registration that begins later is told apart from one before it. */
const SERVER_MS = sql`extract(epoch from clock_timestamp()) * 1000`

interface ChangeRow {
  stamp_then: string | null
  reached: string | null
  reached_stamp: string
  kind: Change['kind']
}

interface MembersRow {
  version: string
  compatible_from: string
  recovering: 't' | 'f'
  stamp_then: string | null
  last_token: string | null
}

export class PostgresStore implements Store {
  readonly #heartbeats: Kysely<unknown>
  readonly #writes: Kysely<unknown>
  readonly #shared: SharedStatements
  readonly #connections: SharedConnections
  readonly #cluster: string
  readonly #schema: string
  readonly #timing: Timing

  constructor(connections: SharedConnections, schema: string, cluster: string, timing: Timing) {
    this.#connections = connections
    this.#shared = SharedStatements.of(connections, schema)
    this.#schema = schema
    this.#cluster = cluster
    this.#timing = timing
    this.#heartbeats = new Kysely({ dialect: new PostgresDialect({ pool: connections.heartbeats }) })
    this.#writes = new Kysely({ dialect: new PostgresDialect({ pool: connections.writes }) })
  }

  /** Where hints are sent; its computation is the database's affair. */
  async channel(): Promise<string> {
    const { rows } = await sql<{ channel: string }>`
      -- channel
      select ${this.#name('channel')}(${this.#cluster}) as channel`.execute(this.#heartbeats)
    return one(rows).channel
  }

  /** Where changes are announced, if this role may hear that: members only. */
  async membersChannel(hints: string): Promise<MembersChannel | undefined> {
    const signature = `${quoteIdentifier(this.#schema)}.members_channel(text)`
    const { rows } = await sql<{ allowed: 't' | 'f' }>`
      -- may hear
      select has_function_privilege(${signature}, 'execute') as allowed`.execute(this.#heartbeats)
    if (one(rows).allowed !== 't') return undefined
    const { rows: channels } = await sql<{ name: string; key: string }>`
      -- members channel
      select name, encode(key, 'hex') as key
      from ${this.#name('members_channel')}(${this.#cluster})`.execute(this.#heartbeats)
    const { name, key } = one(channels)
    return { name, key: Buffer.from(key, 'hex'), hints }
  }

  async readChanges(since: Position, upTo?: number): Promise<ChangesReading> {
    const { rows } = await answerOf(
      sql<HeadRow & MemberRow & ChangeRow>`
      -- changes
      select c.revision, c.stamp, (select ${this.#name('sweep_overdue')}(${this.#cluster})) as sweep_overdue,
        ${this.#stampAt(since)} as stamp_then,
        e.revision as reached, e.stamp as reached_stamp, e.kind, e.member as id, e.token, ${memberColumns('e')}
      from ${this.#name('clusters')} c
      left join ${page(
        sql`
        select * from ${this.#name('events')} l
        where l.cluster = ${this.#cluster} and l.revision > ${since.revision} and l.revision <= ${upTo ?? MAX_BIGINT}
        order by l.revision limit ${PAGE_ROWS}`,
        'revision',
      )} e on true
      where c.name = ${this.#cluster}
      order by e.revision`.execute(this.#heartbeats),
    )
    const sighting = sightingOf(rows[0])
    const history = historyOf(since, sighting, rows[0])
    const logged = history === 'same' ? rows.filter(({ id }) => id !== null) : []
    // Trimming may have left a hole.
    const whole = logged.every(({ reached }, n) => Number(reached) === since.revision + n + 1)
    const last = whole ? logged.at(-1) : undefined
    return {
      ...sighting,
      history: whole ? history : 'unknown',
      changes: whole ? logged.map((row) => ({ kind: row.kind, member: memberOf(row) })) : [],
      reached: last === undefined ? since : { revision: Number(last.reached), stamp: last.reached_stamp },
    }
  }

  async readMembers(after: number, since?: Position): Promise<MembersReading> {
    const { rows } = await answerOf(
      sql<HeadRow & MemberRow & MembersRow>`
      -- members
      select v.version, v.compatible_from, pg_is_in_recovery() as recovering,
        c.revision, c.stamp, (select ${this.#name('sweep_overdue')}(${this.#cluster})) as sweep_overdue,
        ${this.#stampAt(since)} as stamp_then,
        (select max(l.token) from ${this.#name('members')} l where l.cluster = ${this.#cluster}) as last_token,
        m.id, m.token, ${memberColumns('m')}
      from ${this.#name('schema_version')}() v
      left join ${this.#name('clusters')} c on c.name = ${this.#cluster}
      left join ${page(
        sql`
        select * from ${this.#name('members')} l
        where l.cluster = ${this.#cluster} and l.token > ${after}
        order by l.token limit ${PAGE_ROWS}`,
        'token',
      )} m on m.cluster = c.name
      order by m.token`.execute(this.#heartbeats),
    )
    const head = one(rows)
    checkSchemaVersion({ version: Number(head.version), compatibleFrom: Number(head.compatible_from) })
    const sighting = sightingOf(head)
    const members = rows.filter(({ id }) => id !== null).map(memberOf)
    return {
      ...sighting,
      history: since === undefined ? 'unknown' : historyOf(since, sighting, head),
      recovering: head.recovering === 't',
      members,
      complete: members.length === 0 || members.at(-1)?.token === Number(head.last_token),
    }
  }

  heartbeat(registrations: readonly Registration[]): Promise<Heartbeat> {
    return answerOf(this.#shared.heartbeat(this.#cluster, registrations))
  }

  async register(
    wanted: readonly { readonly id: string; readonly data: string; readonly floor: number }[],
  ): Promise<Registered> {
    const { ttlMs, crashGraceMs } = this.#timing
    const { writes, session } = this.#connections
    const { rows } = await answerOf(
      this.#writes.connection().execute((db) =>
        sql<DeltaRow & { id: string; token: string | null; registered_at: string }>`
      -- register
      select id, token, ${timeColumn(sql.ref('registered_at'))}, revision, stamp, previous_stamp
      from ${this.#name('register')}(
        ${this.#cluster}, ${ids(wanted)}, ${contents(wanted)}, ${array(
          wanted.map(({ floor }) => floor),
          'bigint',
        )},
        ${ttlMs} * interval '1 ms', ${crashGraceMs === false ? null : crashGraceMs}::float8 * interval '1 ms',
        ${session}, ${writes.backendPid}, to_timestamp(${writes.serverMs}::float8 / 1000)
      )`.execute(db),
      ),
    )
    const data = new Map(wanted.map((one) => [one.id, one.data]))
    return {
      tokens: new Map(rows.map(({ id, token }) => [id, token === null ? undefined : Number(token)])),
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
      select to_json(pending) as pending, id, ${timeColumn(sql.ref('registered'))},
        revision, stamp, previous_stamp
      from ${this.#name('set_data')}(
        ${this.#cluster}, ${ids(wanted)}, ${tokens(wanted)}, ${contents(wanted)}
      ) s (pending, changed, times, revision, stamp, previous_stamp)
      left join unnest(changed, times) change (id, registered) on true`.execute(this.#writes),
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
      select to_json(pending) as pending, to_json(obstacles) as obstacles, to_json(gone) as gone,
        revision, stamp, previous_stamp, ${SERVER_MS} as server_ms
      from ${this.#name('deregister')}(
        ${this.#cluster}, ${ids(registrations)}, ${tokens(registrations)}
      )`.execute(this.#writes),
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

  /** The connection for writes is opened only where there is something to do. */
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
      select wait_ms, removed, to_json(obstacles) as obstacles, ${SERVER_MS} as server_ms
      from ${this.#name('sweep')}(${this.#cluster})`.execute(this.#writes),
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
    await client.query(`select ${quoteIdentifier(this.#schema)}.fence($1::uuid, $2::bigint)`, [id, token])
  }

  #name(name: string): RawBuilder<unknown> {
    return sql.id(this.#schema, name)
  }

  /** Of the event at a position's revision, as the log has it now. */
  #stampAt(position: Position | undefined): RawBuilder<unknown> {
    return sql`(
      select seen.stamp from ${this.#name('events')} seen
      where seen.cluster = ${this.#cluster} and seen.revision = ${position?.revision ?? null}
    )`
  }
}

/** Of a statement; or what its failure means. */
function answerOf<T>(statement: Promise<T>): Promise<T> {
  return statement.catch((error: unknown) => {
    throw storeError(error)
  })
}

/** The first of these rows that are together no larger than a page, and at least one. */
function page(rows: RawBuilder<unknown>, order: string): RawBuilder<unknown> {
  return sql`(
    select * from (
      select l.*, sum(l.size) over (order by ${sql.ref(order)} rows unbounded preceding) as size_so_far
      from (select l.*, coalesce(octet_length(l.data), 0) + ${ROW_BYTES}::integer as size from (${rows}) l) l
    ) l
    where l.size_so_far <= ${PAGE_BYTES} or l.size_so_far = l.size
  )`
}

function memberColumns(table: string): RawBuilder<unknown> {
  return sql`encode(${sql.ref(`${table}.data`)}, 'base64') as data, ${timeColumn(sql.ref(`${table}.registered_at`))}`
}

function timeColumn(registeredAt: RawBuilder<unknown>): RawBuilder<unknown> {
  return sql`to_char(${registeredAt} at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as registered_at`
}

function array(values: readonly unknown[], type: string): RawBuilder<unknown> {
  return sql`${sql.val([...values])}::${sql.raw(type)}[]`
}

const ids = (rows: readonly { readonly id: string }[]) =>
  array(
    rows.map(({ id }) => id),
    'uuid',
  )
const tokens = (rows: readonly Registration[]) =>
  array(
    rows.map(({ token }) => token),
    'bigint',
  )
const contents = (rows: readonly { readonly data: string }[]) =>
  array(
    rows.map(({ data }) => Buffer.from(data)),
    'bytea',
  )
