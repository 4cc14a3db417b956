/** The changes of clusters as they come, read from the log. It only reads, and does not sweep. */
import { CompactedError } from '../api/errors.js'
import { cursorOf } from '../engine/cursor.js'
import { type Position, positionOf, samePosition } from '../engine/store.js'
import { followsOf, type LogHead } from '../postgres/follows.js'
import type { Query } from '../postgres/query.js'

export interface Change {
  readonly cluster: string
  readonly cursor: string
  readonly revision: number
  readonly at: string
  readonly kind: 'joined' | 'updated' | 'left'
  readonly reason: string
  readonly member: {
    readonly id: string
    readonly data: string
    readonly token: number
    readonly registeredAt: string
  }
  readonly byRole: string
  readonly note: string | null
}

interface Head extends LogHead {
  readonly name: string
  readonly revision: string
  readonly stamp: string
}

interface Row {
  readonly revision: string
  readonly stamp: string
  readonly at: Date
  readonly kind: Change['kind']
  readonly reason: string
  readonly member: string
  readonly token: string
  readonly registered_at: Date
  readonly data: Buffer | null
  readonly by_role: string
  readonly note: string | null
}

const HEADS = `
  select c.name, c.revision, c.stamp, c.previous_stamp, null as stamp_then from $$.clusters c
  where $1::text is null or c.name = $1 order by c.name`
const HEAD = `
  select c.name, c.revision, c.stamp, c.previous_stamp,
    (select e.stamp from $$.events e where e.cluster = c.name and e.revision = $2) as stamp_then
  from $$.clusters c where c.name = $1`
/** A page is small, because a member may carry a megabyte. */
const PAGE_ROWS = 50
/** A member that left is shown with what it carried last. */
const PAGE = `
  select e.revision, e.stamp, e.at, e.kind, e.reason, e.member, e.token, e.registered_at, e.by_role, e.note::text,
    case when e.kind <> 'left' then e.data::bytea else (
      select l.data::bytea from $$.events l
      where l.member = e.member and (l.member, l.at) <= (e.member, e.at) and l.token = e.token
        and l.cluster || '' = e.cluster and l.kind <> 'left'
      order by l.member desc, l.at desc, l.revision desc limit 1
    ) end as data
  from $$.events e where e.cluster = $1 and e.revision > $2 order by e.revision limit ${String(PAGE_ROWS)}`

export class Changes {
  readonly #cluster: string | undefined
  /** After what has been handed out, of each cluster. */
  readonly #positions = new Map<string, Position>()
  #hasBegun = false

  /** Of one cluster, or of all. It begins after `since`, or with what happens after the first look. */
  constructor(cluster: string | undefined, since?: Position) {
    this.#cluster = cluster
    if (cluster === undefined || since === undefined) return
    this.#positions.set(cluster, since)
    this.#hasBegun = true
  }

  /** The clusters that there are. Changes are handed out once, also if a look fails halfway. */
  async look(query: Query, give: (change: Change) => void): Promise<readonly string[]> {
    const heads = await query<Head>(HEADS, [this.#cluster ?? null])
    const names = heads.map(({ name }) => name)
    if (!this.#hasBegun) {
      for (const head of heads) this.#positions.set(head.name, position(head))
      this.#hasBegun = true
      return names
    }
    for (const head of heads) {
      // A new cluster is followed from its first change.
      const after = this.#positions.get(head.name) ?? positionOf(0, '')
      if (!samePosition(after, position(head))) await this.#read(query, head.name, after, give)
    }
    // Those that were dropped may begin again.
    for (const name of this.#positions.keys()) {
      if (!names.includes(name) && this.#cluster === undefined) this.#positions.delete(name)
    }
    return names
  }

  async #read(query: Query, name: string, after: Position, give: (change: Change) => void): Promise<void> {
    for (;;) {
      // The head first: then what it counts is in the page.
      const [head] = await query<Head>(HEAD, [name, after.revision])
      if (head === undefined) return
      const rows = await query<Row>(PAGE, [name, after.revision])
      const follows = followsOf(after, position(head), head, rows)
      if (follows !== 'all') throw compacted(name, follows)
      for (const row of rows) {
        give(changeOf(name, row))
        after = positionOf(Number(row.revision), row.stamp)
        this.#positions.set(name, after)
      }
      if (rows.length < PAGE_ROWS) return
    }
  }
}

function position({ revision, stamp }: Pick<Head, 'revision' | 'stamp'>): Position {
  return positionOf(Number(revision), stamp)
}

function compacted(name: string, follows: 'trimmed' | 'replaced'): CompactedError {
  const cluster = JSON.stringify(name)
  const what =
    follows === 'trimmed'
      ? `The log of cluster ${cluster} no longer has all that follows the cursor`
      : `The history of cluster ${cluster} is not the one that the cursor is of`
  return new CompactedError(
    `${what}: see with pg-membership members who is there now, and watch again without --since`,
  )
}

function changeOf(cluster: string, row: Row): Change {
  const revision = Number(row.revision)
  return {
    cluster,
    cursor: cursorOf(positionOf(revision, row.stamp)),
    revision,
    at: row.at.toISOString(),
    kind: row.kind,
    reason: row.reason,
    member: {
      id: row.member,
      data: row.data?.toString() ?? '',
      token: Number(row.token),
      registeredAt: row.registered_at.toISOString(),
    },
    byRole: row.by_role,
    note: row.note,
  }
}
