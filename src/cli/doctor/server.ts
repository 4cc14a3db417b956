/** The server: what makes heartbeats slow, and what fills up. */
import { duration } from '../table.js'
import { type Check, type Finding, LIMITS, listed, ok } from './finding.js'

const table: Check = async ({ query, schema }) => {
  const [found] = await query<{ updates: number; hot: number; dead: number; live: number; pages: number }>(
    `select s.n_tup_upd::float8 as updates, s.n_tup_hot_upd::float8 as hot, s.n_dead_tup::float8 as dead,
      s.n_live_tup::float8 as live, pg_relation_size(s.relid)::float8 / 8192 as pages
    from pg_stat_all_tables s where s.schemaname = $1 and s.relname = 'members'`,
    [schema],
  )
  if (found === undefined) return []
  const hot = found.updates < 1000 ? 1 : found.hot / found.updates
  const findings: Finding[] = []
  if (hot < 0.8) {
    findings.push({
      code: 'members-hot',
      severity: 'warning',
      what: `only ${String(Math.round(hot * 100))} % of the updates of members were in place (HOT)`,
      consequence: 'Each other heartbeat writes all indexes.',
      todo: 'Look for an index of yours on heartbeat_at, session or suspected_at, and for long transactions.',
    })
  }
  if (found.dead > 10_000 && found.dead > 20 * found.live) {
    findings.push({
      code: 'members-bloat',
      severity: 'warning',
      what: `members has ${String(found.dead)} dead rows and ${String(found.live)} live ones`,
      consequence: 'Heartbeats and sweeps get slower.',
      todo: 'End what holds vacuum up (see long-transactions), then: vacuum the table members.',
    })
  }
  return findings.length > 0 ? findings : [ok('members-bloat', 'the table members is in good order')]
}

const transactions: Check = async ({ query, limits: { transactionMs } = LIMITS }) => {
  const rows = await query<{ holder: string }>(
    `select 'pid ' || pid as holder from pg_stat_activity
      where pid <> pg_backend_pid() and backend_type = 'client backend'
        and xact_start < clock_timestamp() - $1 * interval '1 ms' and (backend_xmin is not null or backend_xid is not null)
    union all
    select 'slot ' || slot_name from pg_replication_slots
      where not active and (xmin is not null or catalog_xmin is not null)
    union all
    select 'prepared transaction ' || gid from pg_prepared_xacts where prepared < clock_timestamp() - $1 * interval '1 ms'`,
    [transactionMs],
  )
  const findings: Finding[] = []
  if (rows.length > 0) {
    findings.push({
      code: 'long-transactions',
      severity: 'warning',
      what: `older than ${duration(transactionMs)}: ${listed(rows.map(({ holder }) => holder))}`,
      consequence: 'Vacuum removes no dead row that they could still see: heartbeats get slower.',
      todo: 'End them: select pg_terminate_backend(PID), pg_drop_replication_slot(NAME), rollback prepared.',
    })
  }
  const [role] = await query<{ sees: boolean }>(
    `select pg_has_role(current_user, 'pg_read_all_stats', 'usage') as sees`,
    [],
  )
  if (!role?.sees) {
    findings.push({
      code: 'long-transactions',
      severity: 'note',
      what: 'this role sees only its own transactions',
      consequence: 'A transaction of another role that holds up vacuum is not found.',
      todo: 'Run the doctor as a member of pg_monitor.',
    })
  }
  return findings.length > 0
    ? findings
    : [ok('long-transactions', `no transaction is older than ${duration(transactionMs)}`)]
}

const locks: Check = async ({ query, schema }) => {
  const rows = await query<{ blocker: string }>(
    `select distinct 'pid ' || b.pid as blocker
    from pg_locks w cross join unnest(pg_blocking_pids(w.pid)) b (pid)
    where not w.granted and exists (
      select from pg_locks l join pg_class c on c.oid = l.relation join pg_namespace n on n.oid = c.relnamespace
      where l.pid = w.pid and n.nspname = $1
    )`,
    [schema],
  )
  if (rows.length === 0) return [ok('locks', 'nobody waits for a lock')]
  return [
    {
      code: 'locks',
      severity: 'warning',
      what: `others wait for ${listed(rows.map(({ blocker }) => blocker))}`,
      consequence: 'Nobody can join, change or leave in that cluster until the transaction ends.',
      todo: 'If it stays: select pg_terminate_backend(PID).',
    },
  ]
}

const queue: Check = async ({ query, limits = LIMITS }) => {
  const [found] = await query<{ used: number }>('select pg_notification_queue_usage() as used', [])
  const used = `the notification queue is ${String(Math.round((found?.used ?? 0) * 100))} % full`
  if ((found?.used ?? 0) < limits.queueShare) return [ok('notification-queue', used)]
  return [
    {
      code: 'notification-queue',
      severity: (found?.used ?? 0) < 0.5 ? 'warning' : 'alert',
      what: used,
      consequence: 'When it is full, every transaction of the database that notifies fails.',
      todo: 'End the client that listens inside an open transaction or has stopped reading.',
    },
  ]
}

const log: Check = async ({ query, schema, limits = LIMITS }) => {
  const [found] = await query<{ bytes: number; size: string }>(
    `select pg_total_relation_size(c.oid)::float8 as bytes, pg_size_pretty(pg_total_relation_size(c.oid)) as size
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = 'events'`,
    [schema],
  )
  if (found === undefined) return []
  if (found.bytes < limits.logBytes) return [ok('log-size', `the log has ${found.size}`)]
  return [
    {
      code: 'log-size',
      severity: 'warning',
      what: `the log has ${found.size}`,
      consequence: 'It takes disk, and backups take longer. Questions are answered as fast as before.',
      todo: `As the owner, say how much to keep: select set_retention('90 days', null).`,
    },
  ]
}

const connections: Check = async ({ query, limits = LIMITS }) => {
  const many = await query<{ process: string }>(
    `select application_name || ' has ' || count(*) as process from pg_stat_activity
    where application_name like 'pg-membership %' and application_name not in ('pg-membership cli', 'pg-membership migrate')
    group by application_name having count(*) > 6 order by count(*) desc`,
    [],
  )
  const [found] = await query<{ used: number }>(
    `select (select count(*) from pg_stat_activity where datid is not null)::float8
      / current_setting('max_connections')::float8 as used`,
    [],
  )
  const findings: Finding[] = []
  if (many.length > 0) {
    findings.push({
      code: 'connections',
      severity: 'warning',
      what: listed(many.map(({ process }) => process)),
      consequence: 'A process needs three connections at most. More are leaked handles.',
      todo: 'Make one handle for each cluster and process, and close it.',
    })
  }
  if ((found?.used ?? 0) > limits.connectionShare) {
    findings.push({
      code: 'connections',
      severity: 'warning',
      what: `${String(Math.round((found?.used ?? 0) * 100))} % of max_connections are in use`,
      consequence: 'When none is left, processes cannot connect, and members expire.',
      todo: 'Raise max_connections, or give other applications a pooler.',
    })
  }
  return findings.length > 0 ? findings : [ok('connections', 'there are connections to spare')]
}

export const serverChecks = {
  'members-bloat': table,
  'long-transactions': transactions,
  locks,
  'notification-queue': queue,
  'log-size': log,
  connections,
}
