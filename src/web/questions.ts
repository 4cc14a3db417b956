/** What the page asks of the database: only what a reader may ask, and never more than it can show. */
import type { Query } from '../postgres/query.js'
import type {
  Answer,
  ChangeRow,
  Changes,
  ClusterRow,
  Data,
  MemberRow,
  Members,
  Pulse,
  StayRow,
  Term,
  Timeline,
} from './answers.js'

export const MAX_CLUSTERS = 1_000
export const MAX_MEMBERS = 5_000
export const MAX_STAYS = 300
const MAX_TERMS = 1_000
/** Equal parts of the timeline's period, for the curve of how many members there were. */
const PARTS = 120
/** Characters of data in a list. All of it is a question of its own. */
const PREVIEW = 240
/** Characters of data beside a lane of the timeline. */
const LABEL = 80

const ms = (column: string): string => `extract(epoch from ${column})::float8 * 1000`

/** undefined: all clusters. */
type Cluster = string | undefined

// The clusters of the question come first. A name that no cluster has is a question without rows, not an error.
const ASKED = `asked as (
  select c.name, c.revision, c.stamp from $$.clusters c where $1::text is null or c.name = $1
)`
const HEAD = `
  with ${ASKED}
  select ${ms('clock_timestamp()')} as "nowMs",
    coalesce(md5(string_agg(concat_ws(' ', revision, stamp, name), E'\\n' order by name)), '') as version
  from asked`

async function head(query: Query, cluster: Cluster): Promise<Answer> {
  const [answer] = await query<Answer>(HEAD, [cluster ?? null])
  return answer ?? { nowMs: 0, version: '' }
}

const CLUSTERS = `
  select c.name, coalesce(m.members, 0)::float8 as members
  from $$.clusters c
  left join (select cluster, count(*) as members from $$.members_now group by cluster) m on m.cluster = c.name
  order by coalesce(m.members, 0) = 0, c.name limit ${MAX_CLUSTERS + 1}`
const HEARTBEATS = `
  select cluster || '/' || token as key, ${ms('heartbeat_at')} as "atMs"
  from $$.members_now where $1::text is null or cluster = $1 order by cluster, token limit ${MAX_MEMBERS}`

export async function pulse(query: Query, cluster: Cluster, schema: string): Promise<Pulse> {
  const answer = await head(query, cluster)
  const [named] = await query<{ database: string }>('select current_database() as database', [])
  const clusters = await query<ClusterRow>(CLUSTERS, [])
  return {
    ...answer,
    database: named?.database ?? '',
    schema,
    clusters: clusters.slice(0, MAX_CLUSTERS),
    moreClusters: clusters.length > MAX_CLUSTERS,
    heartbeats: await query(HEARTBEATS, [cluster ?? null]),
  }
}

// Counts first and then reads: the text of data is made for the members that are listed only.
const LISTED = `
  cluster || '/' || token as key, cluster, id, token::float8 as token,
  left(data, ${PREVIEW}) as data, length(data) > ${PREVIEW} as "isCut",
  ${ms('registered_at')} as "registeredAtMs"`
const LEADS = `token = min(token) over (partition by cluster) as leads`
const NOW = `
  select ${LISTED}, ${ms('heartbeat_at')} as "heartbeatAtMs",
    ${ms('ttl')} as "ttlMs", session, leads
  from (
    select *, ${LEADS} from $$.members_now where $1::text is null or cluster = $1
    order by cluster, token limit ${MAX_MEMBERS}
  ) m order by cluster, token`
const COUNT_NOW = `
  select count(*)::float8 as total from $$.members_now where $1::text is null or cluster = $1`
const THEN = `
  with ${ASKED}
  select ${LISTED}, null as "heartbeatAtMs", null as "ttlMs", null as session, leads,
    count(*) over ()::float8 as total
  from (
    select c.name as cluster, m.*, m.token = min(m.token) over (partition by c.name) as leads
    from asked c cross join lateral $$.members_at(c.name, to_timestamp($2::float8 / 1000)) m
  ) m order by cluster, token limit ${MAX_MEMBERS}`

export async function members(query: Query, cluster: Cluster, atMs: number | undefined): Promise<Members> {
  const answer = await head(query, cluster)
  if (atMs === undefined) {
    const [count] = await query<{ total: number }>(COUNT_NOW, [cluster ?? null])
    const rows = await query<MemberRow>(NOW, [cluster ?? null])
    return { ...answer, atMs: null, members: rows, total: count?.total ?? rows.length }
  }
  const rows = await query<MemberRow & { total: number }>(THEN, [cluster ?? null, atMs])
  return { ...answer, atMs, members: rows, total: rows[0]?.total ?? 0 }
}

const SINCE = 'to_timestamp($2::float8 / 1000)'
const UNTIL = 'to_timestamp($3::float8 / 1000)'

/**
 * All stays that overlap a period, without data: finding that is what costs. So it reads the log: the view of the
 * stays finds data for each.
 * $2, $3: the period. The leader is the member with the lowest token: it leads from when it joined or the last
 * one with a lower token left, whichever was later, until it left itself. `offset 0` keeps clusters apart: so each
 * is found by an index, and the log is never read as a whole.
 */
const STAYS = `
  with ${ASKED},
  stay as materialized (
    select m.cluster, m.id, m.token, m.registered_at as joined_at, null::timestamptz as left_at, null as reason
    from $$.members_now m, asked c where m.cluster = c.name and m.registered_at <= ${UNTIL}
    union all
    select c.name, e.member, e.token, e.registered_at, e.at, e.reason
    from asked c cross join lateral $$.stays_at(c.name, ${UNTIL}) e
    union all
    select c.name, s.* from asked c cross join lateral (
      select member, token, registered_at, at, reason from $$.events
      where cluster = c.name and kind = 'left' and at between ${SINCE} and ${UNTIL} offset 0
    ) s
  ),
  led as (
    select ordered.*, leads_from < coalesce(left_at, 'infinity') and leads_from <= ${UNTIL} as leads
    from (
      select stay.*, greatest(joined_at, max(coalesce(left_at, 'infinity')) over (
        partition by cluster order by token rows between unbounded preceding and 1 preceding)) as leads_from
      from stay
    ) ordered
  )`
// One statement: all parts of the answer show the same moment.
const TIMELINE = `${STAYS}
  select
    (select count(*) from stay)::float8 as total,
    (select coalesce(json_agg(s), '[]') from (
      select r.cluster || '/' || r.token as key, r.cluster, r.id, r.token,
        left($$.data_at(r.cluster, r.id, r.token, coalesce(r.left_at, clock_timestamp())), ${LABEL}) as data,
        ${ms('r.joined_at')} as "joinedAtMs", ${ms('r.left_at')} as "leftAtMs", r.reason
      from (
        select * from led
        order by (leads and left_at is null) desc,
          case when left_at <= ${UNTIL} then left_at else joined_at end desc, token desc limit ${MAX_STAYS}
      ) r order by r.cluster, r.token
    ) s) as stays,
    (select coalesce(json_agg(t), '[]') from (
      select cluster, id, token, ${ms(`greatest(leads_from, ${SINCE})`)} as "fromMs", ${ms('left_at')} as "toMs"
      from led where leads order by leads_from desc limit ${MAX_TERMS + 1}
    ) t) as terms,
    (select coalesce(json_agg(p), '[]') from (
      select part, sum(joined) as joined, sum("left") as "left"
      from stay, lateral (values
        (width_bucket(${ms('joined_at')}, $2, $3, ${PARTS}), 1, 0),
        (case when left_at <= ${UNTIL} then width_bucket(${ms('left_at')}, $2, $3, ${PARTS}) end, 0, 1)
      ) change (part, joined, "left")
      where part is not null group by part
    ) p) as parts`

interface TimelineRow {
  readonly total: number
  readonly stays: readonly StayRow[]
  readonly terms: readonly Term[]
  readonly parts: readonly { readonly part: number; readonly joined: number; readonly left: number }[]
}

export async function timeline(
  query: Query,
  cluster: Cluster,
  period: { readonly fromMs: number; readonly toMs: number },
): Promise<Timeline> {
  const answer = await head(query, cluster)
  const [row] = await query<TimelineRow>(TIMELINE, [cluster ?? null, period.fromMs, period.toMs])
  const { total, stays, terms, parts } = row ?? { total: 0, stays: [], terms: [], parts: [] }
  // Part 0 is all that was before the period. What happened at its last moment belongs to the last part.
  const sums = Array.from({ length: PARTS + 1 }, () => ({ joined: 0, left: 0 }))
  for (const { part, joined, left } of parts) {
    const sum = sums[Math.min(part, PARTS)]
    if (sum === undefined) continue
    sum.joined += joined
    sum.left += left
  }
  return {
    ...answer,
    ...period,
    total,
    stays,
    terms: terms.slice(0, MAX_TERMS).reverse(),
    moreTerms: terms.length > MAX_TERMS,
    membersBefore: sums[0]?.joined ?? 0,
    parts: sums.slice(1),
  }
}

// Reads the newest of each cluster, one cluster after another, so that every step can use an index.
const CHANGES = `
  with ${ASKED}
  select cluster, revision::float8 as revision, ${ms('at')} as "atMs", kind, reason, member as id,
    token::float8 as token, left(data, ${PREVIEW}) as data, coalesce(length(data) > ${PREVIEW}, false) as "isCut",
    by_role, note
  from (
    select h.*, case when h.kind = 'left' then $$.data_at(h.cluster, h.member, h.token, h.at) else (
      select d.data from $$.changes d where d.cluster = h.cluster and d.revision = h.revision
    ) end as data
    from (
      select h.* from asked c cross join lateral (
        select h.cluster, h.revision, h.at, h.kind, h.reason, h.member, h.token, h.by_role, h.note from $$.changes h
        where h.cluster = c.name and h.at <= coalesce(to_timestamp($2::float8 / 1000), 'infinity')
        order by h.at desc, h.revision desc limit $3::bigint
      ) h order by h.at desc, h.cluster, h.revision desc limit $3
    ) h
  ) h order by at desc, cluster, revision desc`

export async function changes(
  query: Query,
  cluster: Cluster,
  { atMs, limit }: { readonly atMs: number | undefined; readonly limit: number },
): Promise<Changes> {
  const answer = await head(query, cluster)
  const rows = await query<ChangeRow>(CHANGES, [cluster ?? null, atMs ?? null, limit + 1])
  return { ...answer, changes: rows.slice(0, limit), more: rows.length > limit }
}

const DATA = `
  select $$.data_at($1, $2::uuid, $3::bigint, coalesce(to_timestamp($4::float8 / 1000), clock_timestamp())) as data`

export async function data(
  query: Query,
  cluster: string,
  of: { readonly id: string; readonly token: number; readonly atMs: number | undefined },
): Promise<Data> {
  const answer = await head(query, cluster)
  const [row] = await query<{ data: string | null }>(DATA, [cluster, of.id, of.token, of.atMs ?? null])
  return { ...answer, data: row?.data ?? null }
}
