import type { Query } from '../postgres/query.js'
import { type Arguments, type Moment, moment, UsageError, uuid } from './arguments.js'
import { type Command, CONNECTION_HELP, type Outcome } from './command.js'
import { noSuchCluster, reading } from './database.js'
import { doneBy } from './done-by.js'
import { type Column, duration, table, time } from './table.js'
import { type Stay, timeline } from './timeline.js'

const DEFAULT_LIMIT = 50
const TIMELINE_SINCE: Moment = { agoMs: 86_400_000, time: null }

export const historyCommand: Command = {
  summary: 'what changed, or who stayed how long, newest first',
  help: `Usage: pg-membership history [CLUSTER] [options]

Shows what changed, in one cluster or in all, newest first: who joined, changed its data, left, and why.
With --stays: the stays, from when to when, and how each ended. With --timeline: the same stays as bars over
time, as wide as the terminal, a line for each member.

  --stays            stays instead of changes
  --timeline         bars instead of changes; --since is 24h, unless it is given. With --json: as --stays
  --member ID        of one member only
  --since TIME       as 2026-01-31T09:00Z, or so long ago, as 90s, 2h30m or 7d
  --until TIME       the same: what was before that, or had begun by then
  --limit N          at most so many, the newest; default: ${String(DEFAULT_LIMIT)}
  --wide             do not shorten data
${CONNECTION_HELP}`,
  options: {
    stays: { type: 'boolean' },
    timeline: { type: 'boolean' },
    member: { type: 'string' },
    since: { type: 'string' },
    until: { type: 'string' },
    limit: { type: 'string' },
    wide: { type: 'boolean' },
  },
  maxPositionals: 1,
  connects: true,
  run(args) {
    const isTimeline = args.flag('timeline')
    const since = moment(args, 'since') ?? (isTimeline ? TIMELINE_SINCE : undefined)
    const until = moment(args, 'until')
    if (since && until && timeOf(since) > timeOf(until)) {
      throw new UsageError(
        `--since${args.text('since') ? '' : ' (24h, unless it is given)'} is after --until`,
      )
    }
    if (isTimeline && args.flag('stays')) throw new UsageError('--timeline shows stays: leave --stays out')
    const question = {
      cluster: args.positionals[0],
      member: memberId(args),
      since,
      until,
      limit: args.integer('limit') ?? DEFAULT_LIMIT,
    }
    return reading<Outcome | string>(args, (query) =>
      isTimeline || args.flag('stays') ? stays(query, question, args) : changes(query, question, args),
    )
  },
}

/** By this machine's clock: near enough to find out what is the wrong way round. */
function timeOf({ time: at, agoMs }: Moment): number {
  return at === null ? Date.now() - (agoMs ?? 0) : Date.parse(at)
}

interface Question {
  readonly cluster: string | undefined
  readonly member: string | undefined
  readonly since: Moment | undefined
  readonly until: Moment | undefined
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
  readonly by_role: string
  readonly note: string | null
}

// Reads the newest of each cluster, one cluster after another, so that every step can use an index.
const ASKED = `(
  select coalesce($3::timestamptz, clock_timestamp() - $4::float8 * interval '1 ms', '-infinity') as since,
    coalesce($6::timestamptz, clock_timestamp() - $7::float8 * interval '1 ms', 'infinity') as until
) asked`
const CHANGES = `
  select h.* from ${ASKED} cross join $$.clusters c cross join lateral (
    select * from $$.changes h where h.cluster = c.name and h.at >= asked.since and h.at <= asked.until
    order by h.at desc, h.revision desc limit $5
  ) h where ($1::text is null or c.name = $1) and $2::uuid is null
  order by h.at desc, h.cluster, h.revision desc limit $5`
const CHANGES_OF_MEMBER = `
  select h.* from ${ASKED} cross join $$.changes h
  where h.member = $2::uuid and ($1::text is null or h.cluster = $1) and h.at >= asked.since and h.at <= asked.until
  order by h.at desc, h.revision desc limit $5`
const PERIOD = `extract(epoch from s.stayed)::float8 * 1000 as stayed_ms,
  extract(epoch from nullif(asked.since, '-infinity'))::float8 * 1000 as since_ms,
  extract(epoch from least(asked.until, clock_timestamp()))::float8 * 1000 as until_ms`
const STAYS = `
  select c.name as cluster, s.*, ${PERIOD}
  from ${ASKED} cross join $$.clusters c
  cross join lateral $$.stays_between(c.name, asked.since, asked.until, newest => $5) s
  where ($1::text is null or c.name = $1) and $2::uuid is null
  order by s.left_at desc nulls first, s.joined_at desc limit $5`
const STAYS_OF_MEMBER = `
  select s.*, ${PERIOD}
  from ${ASKED} cross join $$.stays s
  where s.member = $2::uuid and ($1::text is null or s.cluster = $1)
    and (s.left_at is null or s.left_at >= asked.since) and s.joined_at <= asked.until
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
    ...byColumn(rows),
    { title: 'DATA', value: ({ data }) => data ?? '', cut: true },
  ]
  return table(rows, columns, { wide: args.flag('wide'), columns: args.surroundings.columns })
}

async function stays(query: Query, question: Question, args: Arguments): Promise<Outcome | string> {
  const rows = await query<Stay>(question.member ? STAYS_OF_MEMBER : STAYS, parameters(question))
  if (args.flag('json')) return JSON.stringify(rows.map(stayToJson), null, 2)
  if (rows.length === 0) return (await noSuchCluster(query, question.cluster)) || 'No stays.'
  if (args.flag('timeline')) return { text: timeline(rows, args, question), exitCode: 0, isPainted: true }
  const columns: Column<Stay>[] = [
    ...(question.cluster === undefined ? [{ title: 'CLUSTER', value: (row: Stay) => row.cluster }] : []),
    { title: 'MEMBER', value: ({ member }) => member },
    { title: 'TOKEN', value: ({ token }) => token, align: 'right' },
    { title: 'JOINED', value: (row) => time(row.joined_at) },
    { title: 'LEFT', value: (row) => (row.left_at ? time(row.left_at) : 'still here') },
    { title: 'STAYED', value: (row) => duration(row.stayed_ms), align: 'right' },
    { title: 'WHY', value: ({ reason }) => reason ?? '' },
    ...byColumn(rows),
    { title: 'DATA', value: ({ data }) => data ?? '', cut: true },
  ]
  return table(rows, columns, { wide: args.flag('wide'), columns: args.surroundings.columns })
}

function parameters({ cluster, member, since, until, limit }: Question): readonly unknown[] {
  return [
    ...[cluster ?? null, member ?? null, since?.time ?? null, since?.agoMs ?? null, limit],
    ...[until?.time ?? null, until?.agoMs ?? null],
  ]
}

/** Only where somebody did something. */
function byColumn<T extends Parameters<typeof doneBy>[0]>(rows: readonly T[]): Column<T>[] {
  return rows.some((row) => doneBy(row) !== '') ? [{ title: 'BY', value: doneBy }] : []
}

function memberId(args: Arguments): string | undefined {
  const id = args.text('member')
  return id === undefined ? undefined : uuid('--member', id)
}

function changeToJson({ revision, at, token, by_role, ...row }: Change): object {
  return {
    cluster: row.cluster,
    revision: Number(revision),
    at: at.toISOString(),
    kind: row.kind,
    reason: row.reason,
    member: row.member,
    token: Number(token),
    data: row.data,
    byRole: by_role,
    note: row.note,
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
    byRole: row.by_role,
    note: row.note,
  }
}
