import { type Arguments, type Moment, moment, uuid } from './arguments.js'
import { type Command, CONNECTION_HELP } from './command.js'
import { noSuchCluster, type Query, reading } from './database.js'
import { type Column, duration, table, time } from './table.js'

const DEFAULT_LIMIT = 50

export const historyCommand: Command = {
  summary: 'what changed, or who stayed how long, newest first',
  help: `Usage: pg-membership history [CLUSTER] [options]

Shows what changed, in one cluster or in all, newest first: who joined, changed its data, left, and why.
With --stays: the stays, from when to when, and how each ended.

  --stays            stays instead of changes
  --member ID        of one member only
  --since TIME       as 2026-01-31T09:00Z, or so long ago, as 90s, 2h30m or 7d
  --limit N          at most so many; default: ${String(DEFAULT_LIMIT)}
  --wide             do not shorten data
${CONNECTION_HELP}`,
  options: {
    stays: { type: 'boolean' },
    member: { type: 'string' },
    since: { type: 'string' },
    limit: { type: 'string' },
    wide: { type: 'boolean' },
  },
  maxPositionals: 1,
  connects: true,
  run(args) {
    const question = {
      cluster: args.positionals[0],
      member: memberId(args),
      since: moment(args, 'since'),
      limit: args.integer('limit') ?? DEFAULT_LIMIT,
    }
    return reading(args, (query) =>
      args.flag('stays') ? stays(query, question, args) : changes(query, question, args),
    )
  },
}

interface Question {
  readonly cluster: string | undefined
  readonly member: string | undefined
  readonly since: Moment | undefined
  readonly limit: number
}

interface Change {
  readonly cluster: string
  readonly revision: string
  readonly at: Date
  readonly kind: 'joined' | 'updated' | 'left'
  readonly reason: string
  readonly member: string
  readonly token: string
  readonly data: string | null
}

interface Stay {
  readonly cluster: string
  readonly member: string
  readonly token: string
  readonly joined_at: Date
  readonly left_at: Date | null
  readonly stayed_ms: number
  readonly reason: string | null
  readonly data: string | null
}

// Reads the newest of each cluster, one cluster after another, so that every step can use an index.
const SINCE = `(select coalesce($3::timestamptz, clock_timestamp() - $4::float8 * interval '1 ms', '-infinity') as since) asked`
const CHANGES = `
  select h.* from ${SINCE} cross join $$.clusters c cross join lateral (
    select * from $$.changes h where h.cluster = c.name and h.at >= asked.since
    order by h.at desc, h.revision desc limit $5
  ) h where ($1::text is null or c.name = $1) and $2::uuid is null
  order by h.at desc, h.cluster, h.revision desc limit $5`
const CHANGES_OF_MEMBER = `
  select h.* from ${SINCE} cross join $$.changes h
  where h.member = $2::uuid and ($1::text is null or h.cluster = $1) and h.at >= asked.since
  order by h.at desc, h.revision desc limit $5`
const STAYS = `
  select c.name as cluster, s.*, extract(epoch from s.stayed)::float8 * 1000 as stayed_ms
  from ${SINCE} cross join $$.clusters c cross join lateral $$.stays_between(c.name, asked.since, newest => $5) s
  where ($1::text is null or c.name = $1) and $2::uuid is null
  order by s.left_at desc nulls first, s.joined_at desc limit $5`
const STAYS_OF_MEMBER = `
  select s.*, extract(epoch from s.stayed)::float8 * 1000 as stayed_ms
  from ${SINCE} cross join $$.stays s
  where s.member = $2::uuid and ($1::text is null or s.cluster = $1) and (s.left_at is null or s.left_at >= asked.since)
  order by s.left_at desc nulls first, s.joined_at desc limit $5`

async function changes(query: Query, question: Question, args: Arguments): Promise<string> {
  const rows = await query<Change>(question.member ? CHANGES_OF_MEMBER : CHANGES, parameters(question))
  if (args.flag('json')) return JSON.stringify(rows.map(changeToJson), null, 2)
  if (rows.length === 0) return (await noSuchCluster(query, question.cluster)) || 'No changes.'
  const columns: Column<Change>[] = [
    { title: 'TIME', value: ({ at }) => time(at) },
    ...(question.cluster === undefined ? [{ title: 'CLUSTER', value: (row: Change) => row.cluster }] : []),
    { title: 'REVISION', value: ({ revision }) => revision, align: 'right' },
    { title: 'CHANGE', value: ({ kind, reason }) => (kind === 'left' ? `left: ${reason}` : kind) },
    { title: 'MEMBER', value: ({ member }) => member },
    { title: 'TOKEN', value: ({ token }) => token, align: 'right' },
    { title: 'DATA', value: ({ data }) => data ?? '', cut: true },
  ]
  return table(rows, columns, { wide: args.flag('wide'), columns: args.surroundings.columns })
}

async function stays(query: Query, question: Question, args: Arguments): Promise<string> {
  const rows = await query<Stay>(question.member ? STAYS_OF_MEMBER : STAYS, parameters(question))
  if (args.flag('json')) return JSON.stringify(rows.map(stayToJson), null, 2)
  if (rows.length === 0) return (await noSuchCluster(query, question.cluster)) || 'No stays.'
  const columns: Column<Stay>[] = [
    ...(question.cluster === undefined ? [{ title: 'CLUSTER', value: (row: Stay) => row.cluster }] : []),
    { title: 'MEMBER', value: ({ member }) => member },
    { title: 'TOKEN', value: ({ token }) => token, align: 'right' },
    { title: 'JOINED', value: (row) => time(row.joined_at) },
    { title: 'LEFT', value: (row) => (row.left_at ? time(row.left_at) : 'still here') },
    { title: 'STAYED', value: (row) => duration(row.stayed_ms), align: 'right' },
    { title: 'WHY', value: ({ reason }) => reason ?? '' },
    { title: 'DATA', value: ({ data }) => data ?? '', cut: true },
  ]
  return table(rows, columns, { wide: args.flag('wide'), columns: args.surroundings.columns })
}

function parameters({ cluster, member, since, limit }: Question): readonly unknown[] {
  return [cluster ?? null, member ?? null, since?.time ?? null, since?.agoMs ?? null, limit]
}

function memberId(args: Arguments): string | undefined {
  const id = args.text('member')
  return id === undefined ? undefined : uuid('--member', id)
}

function changeToJson({ cluster, revision, at, kind, reason, member, token, data }: Change): object {
  return {
    cluster,
    revision: Number(revision),
    at: at.toISOString(),
    kind,
    reason,
    member,
    token: Number(token),
    data,
  }
}

function stayToJson(row: Stay): object {
  return {
    cluster: row.cluster,
    member: row.member,
    token: Number(row.token),
    joinedAt: row.joined_at.toISOString(),
    leftAt: row.left_at?.toISOString() ?? null,
    stayedMs: Math.round(row.stayed_ms),
    reason: row.reason,
    data: row.data,
  }
}
