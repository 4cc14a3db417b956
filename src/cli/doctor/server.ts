/** The server under it: what slows heartbeats down, lets tables grow, or keeps announcements from arriving. */
import type { Query } from '../database.js'
import { duration } from '../table.js'
import { type Check, type Finding, ok, size } from './finding.js'

const HOUR_MS = 3_600_000

async function clock(query: Query): Promise<readonly Finding[]> {
  const before = Date.now()
  const [row] = await query<{ ms: number }>(
    'select extract(epoch from clock_timestamp())::float8 * 1000 as ms',
    [],
  )
  const after = Date.now()
  const skewMs = Math.max(0, Math.abs((row?.ms ?? after) - (before + after) / 2) - (after - before) / 2)
  const what = `The clocks of the server and of this machine differ by ${duration(skewMs)}.`
  if (skewMs < 1_000) return [ok('clock', what)]
  return [
    {
      code: 'clock',
      severity: 'note',
      what,
      consequence: 'Leases do not depend on it. Times in the log are those of the server.',
      todo: 'Compare both with NTP.',
    },
  ]
}

interface TableRow {
  readonly live: string
  readonly dead: string
  readonly updates: string
  readonly hot: string
  readonly bytes: string
}

async function table(query: Query, schema: string): Promise<readonly Finding[]> {
  const [row] = await query<TableRow>(
    `select n_live_tup as live, n_dead_tup as dead, n_tup_upd as updates, n_tup_hot_upd as hot,
      pg_total_relation_size(relid) as bytes
    from pg_stat_user_tables where relname = 'members'
      and relid in (select oid from pg_class where relnamespace = $1::regnamespace)`,
    [schema],
  )
  const [updates, hot, dead, live, bytes] = [row?.updates, row?.hot, row?.dead, row?.live, row?.bytes].map(
    Number,
  )
  const share = (updates ?? 0) === 0 ? 1 : (hot ?? 0) / (updates ?? 1)
  const what = `Of the updates of members ${(100 * share).toFixed(1)} % are HOT. The table has ${size(bytes ?? 0)}, ${String(live)} live rows and ${String(dead)} dead ones.`
  const findings: Finding[] = []
  if ((updates ?? 0) > 1_000 && share < 0.9) {
    findings.push({
      code: 'not-hot',
      severity: 'warning',
      what,
      consequence: 'Each heartbeat writes to the indexes, too: it costs more, and they grow.',
      todo: 'See whether somebody made an index on a column that heartbeats write, and whether a transaction holds vacuum up.',
    })
  }
  if ((dead ?? 0) > 10_000 && (dead ?? 0) > 20 * (live ?? 0)) {
    findings.push({
      code: 'bloat',
      severity: 'warning',
      what,
      consequence: 'Every heartbeat and every read goes through dead rows.',
      todo: 'See whether autovacuum is on, and whether a transaction holds it up. Then: vacuum the table members.',
    })
  }
  return findings.length > 0 ? findings : [ok('members-table', what)]
}

interface Transaction {
  readonly pid: number
  readonly who: string | null
  readonly state: string | null
  readonly open_ms: number
}

async function transactions(query: Query): Promise<readonly Finding[]> {
  const rows = await query<Transaction>(
    `select pid, usename || ' (' || coalesce(nullif(application_name, ''), '?') || ')' as who, state,
      extract(epoch from clock_timestamp() - xact_start)::float8 * 1000 as open_ms
    from pg_stat_activity
    where xact_start < clock_timestamp() - interval '1 hour' and backend_type = 'client backend'
      and pid <> pg_backend_pid() order by xact_start limit 5`,
    [],
  )
  const [prepared] = await query<{ n: string }>('select count(*) as n from pg_prepared_xacts', [])
  const [hidden] = await query<{ n: string }>(
    `select count(*) as n from pg_stat_activity where backend_type is null and pid <> pg_backend_pid()`,
    [],
  )
  const findings = rows.map(({ pid, who, state, open_ms }): Finding => ({
    code: 'long-transaction',
    severity: open_ms > 24 * HOUR_MS ? 'alert' : 'warning',
    what: `A transaction of ${who ?? '?'}, process ${String(pid)}, is open for ${duration(open_ms)} (${state ?? '?'}).`,
    consequence: 'Vacuum cannot remove what died since: tables grow, and heartbeats get slower.',
    todo: `End it, or: select pg_terminate_backend(${String(pid)})`,
  }))
  if (Number(prepared?.n) > 0) {
    findings.push({
      code: 'prepared-transaction',
      severity: 'warning',
      what: `There are ${String(prepared?.n)} prepared transactions.`,
      consequence:
        'Each holds its locks, and holds vacuum up, until it is committed or rolled back, also over a restart.',
      todo: 'See pg_prepared_xacts, and end those that nobody will end.',
    })
  }
  if (findings.length > 0) return findings
  const unseen = Number(hidden?.n) > 0 ? ' This role does not see those of other roles: pg_monitor does.' : ''
  return [ok('transactions', `No transaction is older than an hour.${unseen}`)]
}

async function queue(query: Query): Promise<readonly Finding[]> {
  const [row] = await query<{ used: number }>('select pg_notification_queue_usage()::float8 as used', [])
  const used = row?.used ?? 0
  const what = `The queue of notifications is ${(100 * used).toFixed(1)} % full.`
  if (used < 0.1) return [ok('notification-queue', what)]
  return [
    {
      code: 'notification-queue',
      severity: used > 0.5 ? 'alert' : 'warning',
      what,
      consequence:
        'When it is full, NOTIFY fails. Members announce nothing from a half on, and readers poll.',
      todo: 'A session that listens has a transaction open: find it in pg_stat_activity, and end it.',
    },
  ]
}

async function log(query: Query, schema: string): Promise<readonly Finding[]> {
  const [row] = await query<{ bytes: string; rows: number; days: number | null }>(
    `select pg_total_relation_size(c.oid) as bytes, greatest(c.reltuples, 0)::float8 as rows,
      (select extract(epoch from clock_timestamp() - min(e.at)) / 86400
       from (select k.name from $$.clusters k) names cross join lateral (
         select at from $$.events e where e.cluster = names.name order by e.revision limit 1) e)::float8 as days
    from pg_class c where c.relnamespace = $1::regnamespace and c.relname = 'events'`,
    [schema],
  )
  const bytes = Number(row?.bytes)
  const what = `The log has ${size(bytes)}, about ${String(Math.round(row?.rows ?? 0))} changes, the oldest from ${duration((row?.days ?? 0) * 24 * HOUR_MS)} ago.`
  if (bytes < 10 * 1024 ** 3) return [ok('log', what)]
  return [
    {
      code: 'log',
      severity: 'warning',
      what,
      consequence: 'It grows with each change, and is never trimmed by itself unless a retention is set.',
      todo: 'Trim it, or set a retention: docs/guides/operations.md.',
    },
  ]
}

async function connections(query: Query): Promise<readonly Finding[]> {
  const [row] = await query<{
    processes: string
    connections: string
    most: string
    all: string
    max: string
  }>(
    `select count(*) as processes, coalesce(sum(n), 0) as connections, coalesce(max(n), 0) as most,
      (select count(*) from pg_stat_activity where backend_type = 'client backend') as all,
      current_setting('max_connections') as max
    from (
      select count(*) as n from pg_stat_activity
      where application_name ~ '^pg-membership .* [0-9a-f]{12}$' group by application_name
    ) of_processes`,
    [],
  )
  const what = `${String(row?.processes)} processes have ${String(row?.connections)} connections, ${String(row?.most)} at most; the server has ${String(row?.all)} of ${String(row?.max)}.`
  if (Number(row?.all) < 0.9 * Number(row?.max)) return [ok('connections', what)]
  return [
    {
      code: 'connections',
      severity: 'warning',
      what,
      consequence: 'A process that has to connect again may be refused, and its lease ends after its ttl.',
      todo: 'Raise max_connections, or put a pooler before what is not a member: docs/guides/poolers-and-serverless.md.',
    },
  ]
}

export function serverChecks(schema: string): readonly Check[] {
  return [
    { code: 'clock', run: clock },
    { code: 'members-table', run: (query) => table(query, schema) },
    { code: 'transactions', run: transactions },
    { code: 'notification-queue', run: queue },
    { code: 'log', run: (query) => log(query, schema) },
    { code: 'connections', run: connections },
  ]
}
