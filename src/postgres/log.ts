/** What change feeds read: the log after a position, in pages that one statement can carry. */
import { type Kysely, type RawBuilder, sql } from 'kysely'
import type { Change } from '../api/change.js'
import { cursorOf } from '../engine/cursor.js'
import { type LogReading, type Position, positionOf } from '../engine/store.js'
import { followsOf } from './follows.js'
import { isoTime, memberColumns, page, PAGE_ROWS, stampAt } from './fragments.js'
import { memberOf, type MemberRow, one } from './rows.js'

interface LogRow extends MemberRow {
  head: string | null
  head_stamp: string | null
  previous_stamp: string | null
  recovering: 't' | 'f'
  stamp_then: string | null
  revision: string | null
  stamp: string
  at: string
  kind: Change['kind']
  reason: Change['reason']
}

export class Log {
  readonly #db: Kysely<unknown>
  readonly #schema: string
  readonly #cluster: string

  constructor(db: Kysely<unknown>, schema: string, cluster: string) {
    this.#db = db
    this.#schema = schema
    this.#cluster = cluster
  }

  async read(after?: Position): Promise<LogReading> {
    const { rows } = await sql<LogRow>`
      -- feed
      select c.revision as head, c.stamp as head_stamp, c.previous_stamp, pg_catalog.pg_is_in_recovery() as recovering,
        ${stampAt(this.#name('events'), this.#cluster, after)} as stamp_then,
        e.revision, e.stamp, ${isoTime(sql.ref('e.at'))} as at, e.kind, e.reason,
        e.member as id, e.token, ${memberColumns('e')}
      from (select) one
      left join ${this.#name('clusters')} c on c.name operator(pg_catalog.=) ${this.#cluster}
      left join ${page(this.#eventsAfter(after), 'revision')} e on true
      order by e.revision`.execute(this.#db)
    const row = one(rows)
    const head = positionOf(Number(row.head ?? 0), row.head_stamp ?? '')
    if (after === undefined) return { head, follows: 'all', changes: [], reached: head }
    if (head.revision < after.revision && row.recovering === 't') {
      throw new Error('The database is a standby that lags behind')
    }
    const events = rows.filter(({ revision }) => revision !== null)
    const follows = followsOf(after, head, row, events)
    const last = follows === 'all' ? events.at(-1) : undefined
    return {
      head,
      follows,
      changes: follows === 'all' ? events.map(changeOf) : [],
      reached: last === undefined ? after : positionOf(Number(last.revision), last.stamp),
    }
  }

  /**
   * With data for those who left, too: what their last event before it says. It is searched by the index of the
   * member's events alone: the planner has not seen how long the log is, and would read the index of a whole cluster
   * for each of them, if it could compare the cluster with it. Hence the row comparison, and the `|| ''`.
   */
  #eventsAfter(after: Position | undefined): RawBuilder<unknown> {
    const events = this.#name('events')
    return sql`
      select l.revision, l.stamp, l.at, l.kind, l.reason, l.member, l.token, l.registered_at,
        case when l.kind operator(pg_catalog.<>) 'left' then l.data else (
          select last.data from ${events} last
          where last.member operator(pg_catalog.=) l.member
            and (last.member, last.at) operator(pg_catalog.<=) (l.member, l.at)
            and last.token operator(pg_catalog.=) l.token
            and (last.cluster operator(pg_catalog.||) '') operator(pg_catalog.=) l.cluster
            and last.kind operator(pg_catalog.<>) 'left'
          order by last.member desc, last.at desc, last.revision desc limit 1
        ) end as data
      from ${events} l
      where l.cluster operator(pg_catalog.=) ${this.#cluster} and l.revision operator(pg_catalog.>) ${after?.revision ?? null}
      order by l.revision limit ${PAGE_ROWS}`
  }

  #name(name: string): RawBuilder<unknown> {
    return sql.id(this.#schema, name)
  }
}

function changeOf(row: LogRow): Change {
  const position = positionOf(Number(row.revision), row.stamp)
  return Object.freeze({
    cursor: cursorOf(position),
    revision: position.revision,
    at: row.at,
    kind: row.kind,
    reason: row.reason,
    member: Object.freeze(memberOf(row)),
  })
}
