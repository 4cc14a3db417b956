/** What a refresh reads: the changes since a position, or all members, in pages that one statement can carry. */
import { type Kysely, type RawBuilder, sql } from 'kysely'
import type { ChangesReading, MemberChange, MembersReading, Position } from '../engine/store.js'
import { lostOf } from '../engine/told.js'
import { memberColumns, page, PAGE_ROWS, stampsAt } from './fragments.js'
import { type HeadRow, historyOf, memberOf, type MemberRow, one, sightingOf } from './rows.js'
import { checkSchemaVersion } from './schema/version.js'

const MAX_BIGINT = '9223372036854775807'

interface ChangeRow {
  stamps: string | null
  reached: string | null
  reached_stamp: string
  kind: MemberChange['kind']
}

interface MembersRow {
  version: string
  compatible_from: string
  recovering: 't' | 'f'
  stamps: string | null
  last_token: string | null
}

export class Pages {
  readonly #db: Kysely<unknown>
  readonly #schema: string
  readonly #cluster: string
  readonly #onChannel: (stamp: string | null) => void

  /** `onChannel` is told the stamp of the members' channel by each answer. */
  constructor(
    db: Kysely<unknown>,
    schema: string,
    cluster: string,
    onChannel: (stamp: string | null) => void,
  ) {
    this.#db = db
    this.#schema = schema
    this.#cluster = cluster
    this.#onChannel = onChannel
  }

  async readChanges(since: Position, told: readonly Position[], upTo?: number): Promise<ChangesReading> {
    const { rows } = await sql<HeadRow & MemberRow & ChangeRow>`
      -- changes
      select c.revision, c.stamp, c.channel_stamp, (select ${this.#name('sweep_overdue')}(${this.#cluster})) as sweep_overdue,
        ${stampsAt(this.#name('events'), this.#cluster, [since, ...told])} as stamps,
        e.revision as reached, e.stamp as reached_stamp, e.kind, e.member as id, e.token, ${memberColumns('e')}
      from ${this.#name('clusters')} c
      left join ${page(
        sql`
        select * from ${this.#name('events')} l
        where l.cluster operator(pg_catalog.=) ${this.#cluster} and l.revision operator(pg_catalog.>) ${since.revision}
          and l.revision operator(pg_catalog.<=) ${upTo ?? MAX_BIGINT}
        order by l.revision limit ${PAGE_ROWS}`,
        'revision',
      )} e on true
      where c.name operator(pg_catalog.=) ${this.#cluster}
      order by e.revision`.execute(this.#db)
    this.#onChannel(rows[0]?.channel_stamp ?? null)
    const sighting = sightingOf(rows[0])
    const stampAt = stampsOf(rows[0])
    const history = historyOf(since, sighting, stampAt(since.revision))
    const logged = history === 'same' ? rows.filter(({ id }) => id !== null) : []
    // Trimming the log may have left a gap.
    const whole = logged.every(({ reached }, n) => Number(reached) === since.revision + n + 1)
    const last = whole ? logged.at(-1) : undefined
    return {
      ...sighting,
      lost: lostOf(told, sighting, stampAt),
      history: whole ? history : 'unknown',
      changes: whole ? logged.map((row) => ({ kind: row.kind, member: memberOf(row) })) : [],
      reached: last === undefined ? since : { revision: Number(last.reached), stamp: last.reached_stamp },
    }
  }

  async readMembers(after: number, told: readonly Position[], since?: Position): Promise<MembersReading> {
    const { rows } = await sql<HeadRow & MemberRow & MembersRow>`
      -- members
      select v.version, v.compatible_from, pg_catalog.pg_is_in_recovery() as recovering,
        c.revision, c.stamp, c.channel_stamp, (select ${this.#name('sweep_overdue')}(${this.#cluster})) as sweep_overdue,
        ${stampsAt(this.#name('events'), this.#cluster, since === undefined ? told : [since, ...told])} as stamps,
        (
          select pg_catalog.max(l.token) from ${this.#name('members')} l
          where l.cluster operator(pg_catalog.=) ${this.#cluster}
        ) as last_token,
        m.id, m.token, ${memberColumns('m')}
      from ${this.#name('schema_version')}() v
      left join ${this.#name('clusters')} c on c.name operator(pg_catalog.=) ${this.#cluster}
      left join ${page(
        sql`
        select * from ${this.#name('members')} l
        where l.cluster operator(pg_catalog.=) ${this.#cluster} and l.token operator(pg_catalog.>) ${after}
        order by l.token limit ${PAGE_ROWS}`,
        'token',
      )} m on m.cluster operator(pg_catalog.=) c.name
      order by m.token`.execute(this.#db)
    const head = one(rows)
    checkSchemaVersion({ version: Number(head.version), compatibleFrom: Number(head.compatible_from) })
    this.#onChannel(head.channel_stamp)
    const sighting = sightingOf(head)
    const stampAt = stampsOf(head)
    const members = rows.filter(({ id }) => id !== null).map(memberOf)
    return {
      ...sighting,
      lost: lostOf(told, sighting, stampAt),
      history: since === undefined ? 'unknown' : historyOf(since, sighting, stampAt(since.revision)),
      recovering: head.recovering === 't',
      members,
      complete: members.length === 0 || members.at(-1)?.token === Number(head.last_token),
    }
  }

  #name(name: string): RawBuilder<unknown> {
    return sql.id(this.#schema, name)
  }
}

function stampsOf(
  row: { readonly stamps: string | null } | undefined,
): (revision: number) => string | undefined {
  const stamps = JSON.parse(row?.stamps ?? '{}') as Readonly<Record<string, string>>
  return (revision) => stamps[revision]
}
