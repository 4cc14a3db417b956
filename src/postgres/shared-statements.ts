/**
 * The statements that clusters repeat on H: heartbeats, and whether there is anything to sweep. Clusters of one schema
 * that share connections send these together, in one statement. So an idle process costs nearly the same with one
 * cluster and with hundreds.
 */
import { Kysely, PostgresDialect, type RawBuilder, sql } from 'kysely'
import type { Registration } from '../api/registration.js'
import { type Heartbeat, lossOf } from '../engine/store.js'
import { Together } from '../kit/together.js'
import type { SharedConnections } from './connection/shared-connections.js'
import type { SingleConnection } from './connection/single-connection.js'
import { permanentError } from './errors.js'
import { array } from './fragments.js'
import { type HeadRow, sightingOf, strings } from './rows.js'

/** The most for one statement, so that it ends within the time limit of a query. */
const MAX_REGISTRATIONS = 2_000
const MAX_CLUSTERS = 200

interface Beat {
  readonly cluster: string
  readonly registrations: readonly Registration[]
}

export interface HeartbeatAnswer extends Heartbeat {
  /** Of the members' channel. */
  readonly channelStamp: string | null
}

interface BeatRow extends HeadRow {
  readonly locked: string | null
  readonly missing: string | null
}

const existing = new WeakMap<SharedConnections, Map<string, SharedStatements>>()

export class SharedStatements {
  readonly #schema: string
  readonly #connection: SingleConnection
  readonly #session: string
  readonly #beats: Together<Kysely<unknown>, Beat, HeartbeatAnswer>
  readonly #sweeps: Together<Kysely<unknown>, string, number | undefined>

  /** The one object for all clusters of this schema that use these connections. */
  static of(connections: SharedConnections, schema: string): SharedStatements {
    const bySchema = existing.get(connections) ?? new Map<string, SharedStatements>()
    existing.set(connections, bySchema)
    const statements = bySchema.get(schema) ?? new SharedStatements(connections, schema)
    bySchema.set(schema, statements)
    return statements
  }

  private constructor({ heartbeats: connection, session }: SharedConnections, schema: string) {
    this.#schema = schema
    this.#connection = connection
    this.#session = session
    const kysely = new Kysely<unknown>({ dialect: new PostgresDialect({ pool: connection.forHeartbeats }) })
    const shared = {
      connection: (use: (db: Kysely<unknown>) => Promise<void>) => kysely.connection().execute(use),
      mayConcernOne: (error: unknown) => permanentError(error) !== undefined,
    }
    this.#beats = new Together({
      ...shared,
      ask: (db, beats) => this.#heartbeat(db, beats),
      share: ({ registrations }) => Math.max(registrations.length / MAX_REGISTRATIONS, 1 / MAX_CLUSTERS),
    })
    this.#sweeps = new Together({
      ...shared,
      ask: (db, clusters) => this.#sweepIdle(db, clusters),
      share: () => 1 / MAX_CLUSTERS,
    })
  }

  heartbeat(cluster: string, registrations: readonly Registration[]): Promise<HeartbeatAnswer> {
    return this.#beats.ask({ cluster, registrations })
  }

  /** Takes this turn if there is nothing to do, and returns the milliseconds until the next; undefined: sweep. */
  sweepIdle(cluster: string): Promise<number | undefined> {
    return this.#sweeps.ask(cluster)
  }

  async #heartbeat(db: Kysely<unknown>, beats: readonly Beat[]): Promise<HeartbeatAnswer[]> {
    const { rows } = await sql<BeatRow>`
      -- heartbeat
      select h.revision, h.stamp, h.sweep_overdue, h.channel_stamp, pg_catalog.to_json(h.locked) as locked,
        pg_catalog.json_object(h.missing::pg_catalog.text[], h.reasons) as missing
      from rows from (
        pg_catalog.unnest(${texts(beats.map(({ cluster }) => cluster))}),
        pg_catalog.unnest(${texts(beats.map(({ registrations }) => literal(registrations.map(({ id }) => id))))}),
        pg_catalog.unnest(${texts(beats.map(({ registrations }) => literal(registrations.map(({ token }) => token))))})
      ) with ordinality beat (cluster, ids, tokens, n)
      cross join lateral ${this.#name('heartbeat')}(
        beat.cluster, beat.ids::pg_catalog.uuid[], beat.tokens::bigint[], ${this.#session}, ${this.#connection.backendPid}
      ) h
      order by beat.n`.execute(db)
    return rows.map(({ locked, missing, ...head }) => ({
      ...sightingOf(head),
      channelStamp: head.channel_stamp,
      locked: strings(locked),
      missing: new Map(
        Object.entries(missing === null ? {} : (JSON.parse(missing) as Record<string, string>)).map(
          ([id, reason]) => [id, lossOf(reason)],
        ),
      ),
    }))
  }

  async #sweepIdle(db: Kysely<unknown>, clusters: readonly string[]): Promise<(number | undefined)[]> {
    const { rows } = await sql<{ cluster: string; wait_ms: string }>`
      -- sweep_idle
      select cluster, wait_ms from ${this.#name('sweep_idle')}(${texts(clusters)})`.execute(db)
    const waits = new Map(rows.map(({ cluster, wait_ms }) => [cluster, Number(wait_ms)]))
    return clusters.map((cluster) => waits.get(cluster))
  }

  #name(name: string): RawBuilder<unknown> {
    return sql.id(this.#schema, name)
  }
}

const texts = (values: readonly string[]) => array(values, 'text')

/** An array of ids or numbers, as PostgreSQL reads it. */
function literal(values: readonly (string | number)[]): string {
  return `{${values.join()}}`
}
