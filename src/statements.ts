/** Every query of a cluster, in Kysely; rows to members. The rules are in migrations/*.sql. */
import { Kysely, PostgresDialect, sql, type RawBuilder } from 'kysely'
import type { QueryClient } from './cluster.js'
import type { SharedConnections } from './connections.js'
import type { LossReason } from './errors.js'
import type { Member } from './member.js'
import type { Timing } from './options.js'
import { checkSchemaVersion, quoteIdentifier } from './schema.js'
import type { Change } from './snapshot.js'
import type {
  Departure,
  Heartbeat,
  Position,
  Reading,
  Registration,
  Sighting,
  Store,
  Sweep,
} from './store.js'

/** Behind by more than this, everything is read instead. */
const MAX_CHANGES = 1_000

// All values come as PostgreSQL writes them: applications change pg's parsers for the whole process.

/** After what the statement has done: a registration that begins later is told apart from one before it. */
const SERVER_MS = sql`extract(epoch from clock_timestamp()) * 1000`

interface HeadRow {
  revision: string | null
  stamp: string | null
  sweep_overdue: 't' | 'f'
}

interface MemberRow {
  id: string | null
  token: string
  /** In base64, whatever bytea_output is. */
  data: string | null
  registered_at: string
}

export class Statements implements Store {
  readonly #heartbeats: Kysely<unknown>
  readonly #writes: Kysely<unknown>
  readonly #connections: SharedConnections
  readonly #cluster: string
  readonly #schema: string
  readonly #timing: Timing

  constructor(connections: SharedConnections, schema: string, cluster: string, timing: Timing) {
    this.#connections = connections
    this.#schema = schema
    this.#cluster = cluster
    this.#timing = timing
    this.#heartbeats = new Kysely({ dialect: new PostgresDialect({ pool: connections.heartbeats }) })
    this.#writes = new Kysely({ dialect: new PostgresDialect({ pool: connections.writes }) })
  }

  /** Where hints are sent; its computation is the database's affair. */
  async channel(): Promise<string> {
    const { rows } = await sql<{ channel: string }>`
      select ${this.#name('channel')}(${this.#cluster}) as channel`.execute(this.#heartbeats)
    return one(rows).channel
  }

  async read(since: Position | undefined): Promise<Reading> {
    const known = since !== undefined && since.stamp !== ''
    if (!known) return await this.#readAll()
    return (await this.#readSince(since)) ?? (await this.#readAll(since))
  }

  /** undefined: what happened since is not known any more, or is too much. */
  async #readSince(since: Position): Promise<Reading | undefined> {
    const { rows } = await sql<HeadRow & MemberRow & { known: 't' | 'f'; kind: Change['kind'] }>`
      select c.revision, c.stamp, (select ${this.#name('sweep_overdue')}(${this.#cluster})) as sweep_overdue,
        e.kind, e.member as id, e.token, ${memberColumns('e')},
        exists (
          select from ${this.#name('events')} seen
          where seen.cluster = c.name and seen.revision = ${since.revision} and seen.stamp = ${since.stamp}
        ) as known
      from ${this.#name('clusters')} c
      left join ${this.#name('events')} e on e.cluster = c.name and e.revision > ${since.revision}
      where c.name = ${this.#cluster}
      order by e.revision
      limit ${MAX_CHANGES + 1}`.execute(this.#heartbeats)
    const [head] = rows
    if (head === undefined) return undefined
    const sighting = sightingOf(head)
    if (sighting.revision === since.revision && sighting.stamp === since.stamp)
      return { kind: 'same', ...sighting }
    if (head.known === 'f' || head.id === null || rows.length > MAX_CHANGES) return undefined
    // Trimming may have left a hole.
    if (rows.length !== sighting.revision - since.revision) return undefined
    return {
      kind: 'changes',
      ...sighting,
      changes: rows.map((row) => ({ kind: row.kind, member: memberOf(row) })),
    }
  }

  async #readAll(since?: Position): Promise<Reading> {
    const { rows } = await sql<
      HeadRow & {
        version: string
        compatible_from: string
        recovering: 't' | 'f'
        diverged: 't' | 'f'
      } & MemberRow
    >`
      select v.version, v.compatible_from, pg_is_in_recovery() as recovering,
        exists (
          select from ${this.#name('events')} e
          where e.cluster = ${this.#cluster} and e.revision = ${since?.revision ?? 0} and e.stamp <> ${since?.stamp ?? null}
        ) as diverged,
        c.revision, c.stamp, (select ${this.#name('sweep_overdue')}(${this.#cluster})) as sweep_overdue,
        m.id, m.token, ${memberColumns('m')}
      from ${this.#name('schema_version')}() v
      left join ${this.#name('clusters')} c on c.name = ${this.#cluster}
      left join ${this.#name('members')} m on m.cluster = c.name
      order by m.token`.execute(this.#heartbeats)
    const head = one(rows)
    checkSchemaVersion({ version: Number(head.version), compatibleFrom: Number(head.compatible_from) })
    return {
      kind: 'all',
      ...sightingOf(head),
      recovering: head.recovering === 't',
      diverged: head.diverged === 't',
      members: rows.filter((row) => row.id !== null).map(memberOf),
    }
  }

  async heartbeat(registrations: readonly Registration[]): Promise<Heartbeat> {
    const { heartbeats, session } = this.#connections
    // In the turn in which it connects: the first statement on a new connection is a heartbeat.
    const { rows } = await this.#heartbeats.connection().execute((db) =>
      sql<HeadRow & { locked: string | null; missing: string | null }>`
      select h.revision, h.stamp, h.sweep_overdue, to_json(h.locked) as locked, json_object(h.missing::text[], h.reasons) as missing
      from ${this.#name('heartbeat')}(
        ${this.#cluster}, ${ids(registrations)}, ${tokens(registrations)},
        ${session}, ${heartbeats.backendPid}
      ) h`.execute(db),
    )
    const row = one(rows)
    return {
      ...sightingOf(row),
      locked: strings(row.locked),
      missing: new Map(
        Object.entries(row.missing === null ? {} : (JSON.parse(row.missing) as Record<string, LossReason>)),
      ),
    }
  }

  async register(
    wanted: readonly { readonly id: string; readonly data: string; readonly floor: number }[],
  ): Promise<ReadonlyMap<string, number | undefined>> {
    const { ttlMs, crashGraceMs } = this.#timing
    const { writes, session } = this.#connections
    const { rows } = await this.#writes.connection().execute((db) =>
      sql<{ id: string; token: string | null }>`
      select id, token from ${this.#name('register')}(
        ${this.#cluster}, ${ids(wanted)}, ${contents(wanted)}, ${array(
          wanted.map(({ floor }) => floor),
          'bigint',
        )},
        ${ttlMs} * interval '1 ms', ${crashGraceMs === false ? null : crashGraceMs}::float8 * interval '1 ms',
        ${session}, ${writes.backendPid}, to_timestamp(${writes.serverMs}::float8 / 1000)
      )`.execute(db),
    )
    return new Map(rows.map(({ id, token }) => [id, token === null ? undefined : Number(token)]))
  }

  async setData(wanted: readonly (Registration & { readonly data: string })[]): Promise<readonly string[]> {
    const { rows } = await sql<{ pending: string | null }>`
      select to_json(${this.#name('set_data')}(
        ${this.#cluster}, ${ids(wanted)}, ${tokens(wanted)}, ${contents(wanted)}
      )) as pending`.execute(this.#writes)
    return strings(one(rows).pending)
  }

  async deregister(registrations: readonly Registration[]): Promise<Departure> {
    const { rows } = await sql<{ pending: string | null; obstacles: string | null; server_ms: string }>`
      select to_json(pending) as pending, to_json(obstacles) as obstacles, ${SERVER_MS} as server_ms
      from ${this.#name('deregister')}(
        ${this.#cluster}, ${ids(registrations)}, ${tokens(registrations)}
      )`.execute(this.#writes)
    const { pending, obstacles, server_ms } = one(rows)
    this.#connections.writes.heardClock(Number(server_ms))
    return { pending: strings(pending), obstacles: strings(obstacles) }
  }

  async sweep(): Promise<Sweep> {
    const { rows } = await sql<{
      wait_ms: string
      removed: string
      obstacles: string | null
      server_ms: string
    }>`
      select wait_ms, removed, to_json(obstacles) as obstacles, ${SERVER_MS} as server_ms
      from ${this.#name('sweep')}(${this.#cluster})`.execute(this.#writes)
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
}

function one<T>(rows: readonly T[]): T {
  const [row] = rows
  if (row === undefined) throw new Error('The database answered with no row')
  return row
}

function strings(json: string | null): readonly string[] {
  return json === null ? [] : (JSON.parse(json) as string[])
}

function sightingOf({ revision, stamp, sweep_overdue }: HeadRow): Sighting {
  return { revision: Number(revision ?? 0), stamp: stamp ?? '', sweepOverdue: sweep_overdue === 't' }
}

function memberOf({ id, token, data, registered_at }: MemberRow): Member {
  return {
    id: id ?? '',
    token: Number(token),
    data: data === null ? '' : Buffer.from(data, 'base64').toString(),
    registeredAt: registered_at,
  }
}

function memberColumns(table: string): RawBuilder<unknown> {
  const [data, registeredAt] = [sql.ref(`${table}.data`), sql.ref(`${table}.registered_at`)]
  return sql`encode(${data}, 'base64') as data,
    to_char(${registeredAt} at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as registered_at`
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
