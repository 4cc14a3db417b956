import type { Query } from '../postgres/query.js'
import { type Arguments, moment, UsageError } from './arguments.js'
import { type Command, CONNECTION_HELP } from './command.js'
import { noSuchCluster, reading } from './database.js'
import { follow } from './follow.js'
import { Screen } from './screen.js'
import { type Column, duration, table, time } from './table.js'
import { visible } from './visible.js'

interface Row {
  readonly cluster: string
  readonly id: string
  readonly token: string
  readonly data: string
  readonly registered_at: Date
  readonly here_ms: number
  /** null where the question is about the past. */
  readonly silent_ms: number | null
  readonly ttl_ms: number | null
  readonly session: string | null
}

/** A sweep removes a silent member within this time after its ttl. */
const SWEEP_MS = 2_000

export const membersCommand: Command = {
  summary: 'who is a member now, or was at a time',
  help: `Usage: pg-membership members [CLUSTER] [options]

Shows who is a member, of one cluster or of all, oldest registration first, with the age of the last
heartbeat, the ttl, and the host and pid of the process; or who was a member at a time, and what each
carried then. OVERDUE: silent for longer than the ttl, and not removed. ?: behind a pooler.

  --watch            go on until Ctrl-C: on a terminal repaint once a second, elsewhere print again at each change
  --at TIME          as 2026-01-31T09:00Z, or so long ago, as 90s, 2h30m or 7d
  --wide             do not shorten data
${CONNECTION_HELP}`,
  options: { watch: { type: 'boolean' }, at: { type: 'string' }, wide: { type: 'boolean' } },
  maxPositionals: 1,
  connects: true,
  run(args) {
    const [cluster] = args.positionals
    const at = moment(args, 'at')
    if (args.flag('watch')) {
      if (at) throw new UsageError('--at cannot be used with --watch: the past does not change')
      return watched(args, cluster)
    }
    return reading(args, async (query) => {
      const rows = at
        ? await query<Row>(THEN, [cluster ?? null, at.agoMs, at.time])
        : await query<Row>(NOW, [cluster ?? null])
      return args.flag('json') ? JSON.stringify(rows.map(toJson), null, 2) : shown(query, rows, args)
    })
  },
}

/** On a terminal, the last table stays when it ends. */
async function watched(args: Arguments, cluster: string | undefined): Promise<string> {
  const { print, canRedraw } = args.surroundings
  const isLive = canRedraw && !args.flag('json')
  let [members, title, trouble] = ['', '', '']
  let seen: string | undefined
  {
    using screen = new Screen(args.surroundings)
    const draw = (): void => screen.draw(`${trouble || title}\n${members}`)
    await follow(args, {
      look: async (query) => {
        const rows = await query<Row>(NOW, [cluster ?? null])
        // Ages change all the time.
        const known = JSON.stringify(
          rows.map((row) => [row.cluster, row.id, row.token, row.data, isOverdue(row)]),
        )
        const isNew = known !== seen
        seen = known
        if (args.flag('json')) {
          if (isNew) print(visible(`${JSON.stringify(rows.map(toJson))}\n`))
        } else if (isNew || isLive) {
          members = visible(await shown(query, rows, args))
          title = `${time(new Date())}  ${String(rows.length)} members, Ctrl-C to end`
          if (isLive) draw()
          else print(`${title}\n${members}\n\n`)
        }
      },
      ...(isLive
        ? {
            onTrouble: (why) => {
              trouble = why === undefined ? '' : visible(`${time(new Date())}  ${why}`)
              draw()
            },
          }
        : {}),
    })
  }
  return isLive ? members : ''
}

async function shown(query: Query, rows: readonly Row[], args: Arguments): Promise<string> {
  if (rows.length === 0) return (await noSuchCluster(query, args.positionals[0])) || 'No members.'
  return tableOf(rows, args)
}

const NOW = `
  select cluster, id, token, data, registered_at, session,
    extract(epoch from clock_timestamp() - registered_at)::float8 * 1000 as here_ms,
    extract(epoch from silent_for)::float8 * 1000 as silent_ms, extract(epoch from ttl)::float8 * 1000 as ttl_ms
  from $$.members_now where $1::text is null or cluster = $1 order by cluster, token`

const THEN = `
  select c.name as cluster, m.id, m.token, m.data, m.registered_at, null as session,
    extract(epoch from asked.at - m.registered_at)::float8 * 1000 as here_ms, null as silent_ms, null as ttl_ms
  from (select coalesce($3::timestamptz, clock_timestamp() - $2::float8 * interval '1 ms') as at) asked
  cross join $$.clusters c cross join lateral $$.members_at(c.name, asked.at) m
  where $1::text is null or c.name = $1 order by c.name, m.token`

function tableOf(rows: readonly Row[], args: Arguments): string {
  const many = args.positionals.length === 0
  const now = rows[0]?.silent_ms !== null
  const columns: Column<Row>[] = [
    ...(many ? [{ title: 'CLUSTER', value: (row: Row) => row.cluster }] : []),
    { title: 'ID', value: ({ id }) => id },
    { title: 'TOKEN', value: ({ token }) => token, align: 'right' },
    { title: 'REGISTERED', value: (row) => time(row.registered_at) },
    { title: now ? 'HERE FOR' : 'HAD BEEN HERE', value: (row) => duration(row.here_ms), align: 'right' },
    ...(now
      ? [
          {
            title: 'HEARTBEAT',
            value: (row: Row) => `${duration(row.silent_ms ?? 0)} ago${isOverdue(row) ? ' OVERDUE' : ''}`,
            align: 'right' as const,
          },
          { title: 'TTL', value: (row: Row) => duration(row.ttl_ms ?? 0), align: 'right' as const },
          { title: 'HOST', value: (row: Row) => processOf(row)?.host ?? '?' },
          { title: 'PID', value: (row: Row) => String(processOf(row)?.pid ?? '?'), align: 'right' as const },
        ]
      : []),
    { title: 'DATA', value: ({ data }) => data, cut: true },
  ]
  return table(rows, columns, { wide: args.flag('wide'), columns: args.surroundings.columns })
}

function toJson(row: Row): object {
  return {
    cluster: row.cluster,
    id: row.id,
    token: Number(row.token),
    data: row.data,
    registeredAt: row.registered_at.toISOString(),
    hereForMs: Math.round(row.here_ms),
    ...(row.silent_ms === null
      ? {}
      : {
          silentForMs: Math.round(row.silent_ms),
          ttlMs: row.ttl_ms,
          isOverdue: isOverdue(row),
          session: row.session,
          host: processOf(row)?.host ?? null,
          pid: processOf(row)?.pid ?? null,
        }),
  }
}

/** Silent for longer than its ttl, and still here: nobody sweeps, or something holds its row. */
function isOverdue({ silent_ms: silent, ttl_ms: ttl }: Row): boolean {
  return silent !== null && ttl !== null && silent > ttl + SWEEP_MS
}

/** A process names its session after its host and pid. Behind a pooler it claims none. */
function processOf({ session }: Row): { readonly host: string; readonly pid: number } | undefined {
  const [, host, pid] = /^pg-membership (.+) (\d+) [0-9a-f]{12}$/.exec(session ?? '') ?? []
  return host === undefined ? undefined : { host, pid: Number(pid) }
}
