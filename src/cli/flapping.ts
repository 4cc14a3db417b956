import { moment } from './arguments.js'
import { type Command, CONNECTION_HELP } from './command.js'
import { noSuchCluster, reading } from './database.js'
import { table, time } from './table.js'

interface Row {
  readonly cluster: string
  readonly member: string
  readonly left: string
  readonly reasons: Readonly<Record<string, number>>
  readonly last_at: Date
}

const DEFAULT_LIMIT = 20

const FLAPPING = `
  with asked as (
    select coalesce($2::timestamptz, clock_timestamp() - coalesce($3::float8, 86400000) * interval '1 ms') as since
  ), leaves as (
    select e.cluster, e.member, e.reason, count(*) as n, max(e.at) as last_at
    from asked cross join $$.clusters c join $$.events e
      on e.cluster = c.name and e.kind = 'left' and e.at >= asked.since
    where $1::text is null or c.name = $1 group by e.cluster, e.member, e.reason
  )
  select cluster, member, sum(n) as "left", jsonb_object_agg(reason, n) as reasons, max(last_at) as last_at
  from leaves group by cluster, member order by sum(n) desc, max(last_at) desc limit $4`

export const flappingCommand: Command = {
  summary: 'who came and went most, and why',
  help: `Usage: pg-membership flapping [CLUSTER] [options]

Shows the members that left most often, and for which reasons. A process that is started again has new ids:
each of its members left once.

  --since TIME       as 2026-01-31T09:00Z, or so long ago, as 90s, 2h30m or 7d; default: 24h
  --limit N          at most so many; default: ${String(DEFAULT_LIMIT)}
${CONNECTION_HELP}`,
  options: { since: { type: 'string' }, limit: { type: 'string' } },
  maxPositionals: 1,
  connects: true,
  run(args) {
    const [cluster] = args.positionals
    const since = moment(args, 'since')
    const limit = args.integer('limit') ?? DEFAULT_LIMIT
    return reading(args, async (query) => {
      const rows = await query<Row>(FLAPPING, [
        cluster ?? null,
        since?.time ?? null,
        since?.agoMs ?? null,
        limit,
      ])
      if (args.flag('json')) return JSON.stringify(rows.map(toJson), null, 2)
      if (rows.length === 0) return (await noSuchCluster(query, cluster)) || 'Nobody has left.'
      return table(
        rows,
        [
          { title: 'CLUSTER', value: (row) => row.cluster },
          { title: 'MEMBER', value: (row) => row.member },
          { title: 'LEFT', value: (row) => row.left, align: 'right' },
          {
            title: 'WHY',
            value: (row) =>
              Object.entries(row.reasons)
                .map(([why, n]) => `${why} ${String(n)}`)
                .join(', '),
          },
          { title: 'LAST', value: (row) => time(row.last_at) },
        ],
        { wide: true, columns: undefined },
      )
    })
  },
}

function toJson({ cluster, member, left, reasons, last_at }: Row): object {
  return { cluster, member, left: Number(left), reasons, lastAt: last_at.toISOString() }
}
