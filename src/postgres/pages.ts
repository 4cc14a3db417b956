/** What a refresh reads: the changes since a position, or all members, in pages that one statement can carry. */
import { type Kysely, type RawBuilder, sql } from 'kysely'
import {
  type ChangesReading,
  type MemberChange,
  type MembersReading,
  type Position,
  samePosition,
} from '../engine/store.js'
import { memberColumns, page, PAGE_ROWS, stampAt } from './fragments.js'
import { type HeadRow, historyOf, memberOf, type MemberRow, one, sightingOf } from './rows.js'
import { checkSchemaVersion } from './schema/version.js'

const MAX_BIGINT = '9223372036854775807'

interface ChangeRow {
  stamp_then: string | null
  told_stamp: string | null
  reached: string | null
  reached_stamp: string
  kind: MemberChange['kind']
}

interface MembersRow {
  version: string
  compatible_from: string
  recovering: 't' | 'f'
  stamp_then: string | null
  last_token: string | null
}

export class Pages {
  readonly #db: Kysely<unknown>
  readonly #schema: string
  readonly #cluster: string

  constructor(db: Kysely<unknown>, schema: string, cluster: string) {
    this.#db = db
    this.#schema = schema
    this.#cluster = cluster
  }

  async readChanges(since: Position, upTo?: number, told = since): Promise<ChangesReading> {
    const events = this.#name('events')
    const stampThen = stampAt(events, this.#cluster, since)
    // Nearly always the same position: two statements, so that nothing is looked for twice.
    const toldStamp = samePosition(told, since) ? sql`null` : stampAt(events, this.#cluster, told)
    const { rows } = await sql<HeadRow & MemberRow & ChangeRow>`
      -- changes
      select c.revision, c.stamp, (select ${this.#name('sweep_overdue')}(${this.#cluster})) as sweep_overdue,
        ${stampThen} as stamp_then, ${toldStamp} as told_stamp,
        e.revision as reached, e.stamp as reached_stamp, e.kind, e.member as id, e.token, ${memberColumns('e')}
      from ${this.#name('clusters')} c
      left join ${page(
        sql`
        select * from ${events} l
        where l.cluster = ${this.#cluster} and l.revision > ${since.revision} and l.revision <= ${upTo ?? MAX_BIGINT}
        order by l.revision limit ${PAGE_ROWS}`,
        'revision',
      )} e on true
      where c.name = ${this.#cluster}
      order by e.revision`.execute(this.#db)
    const sighting = sightingOf(rows[0])
    const history = historyOf(since, sighting, rows[0])
    const logged = history === 'same' ? rows.filter(({ id }) => id !== null) : []
    // Trimming the log may have left a gap.
    const whole = logged.every(({ reached }, n) => Number(reached) === since.revision + n + 1)
    const last = whole ? logged.at(-1) : undefined
    return {
      ...sighting,
      history: whole ? history : 'unknown',
      changes: whole ? logged.map((row) => ({ kind: row.kind, member: memberOf(row) })) : [],
      reached: last === undefined ? since : { revision: Number(last.reached), stamp: last.reached_stamp },
      toldHistory: samePosition(told, since)
        ? history
        : historyOf(told, sighting, rows[0] && { stamp_then: rows[0].told_stamp }),
    }
  }

  async readMembers(after: number, since?: Position): Promise<MembersReading> {
    const { rows } = await sql<HeadRow & MemberRow & MembersRow>`
      -- members
      select v.version, v.compatible_from, pg_is_in_recovery() as recovering,
        c.revision, c.stamp, (select ${this.#name('sweep_overdue')}(${this.#cluster})) as sweep_overdue,
        ${stampAt(this.#name('events'), this.#cluster, since)} as stamp_then,
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
      order by m.token`.execute(this.#db)
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

  #name(name: string): RawBuilder<unknown> {
    return sql.id(this.#schema, name)
  }
}
