/** Members and those who sweep: whether the dead are removed. */
import type { Query } from '../../postgres/query.js'
import { type Check, type Finding, listed, ok } from './finding.js'

const overdue: Check = async ({ query }) => {
  const rows = await query<{ member: string }>(
    `select m.cluster || ' ' || m.id as member from $$.members m
    where $$.heard_at(m.id, m.token, m.heartbeat_at) + m.ttl + interval '5 s' < clock_timestamp() order by m.heartbeat_at`,
    [],
  )
  if (rows.length === 0) return [ok('members-overdue', 'no member is past its ttl')]
  return [
    {
      code: 'members-overdue',
      severity: 'alert',
      what: `past their ttl, but not removed: ${listed(rows.map(({ member }) => member))}`,
      consequence: 'Others still take them for members.',
      todo: 'See whether anybody sweeps, and whether a foreign key or an open transaction holds their rows.',
    },
  ]
}

const sweeping: Check = async ({ query }) => {
  const [found] = await query<{ standby: boolean }>('select pg_is_in_recovery() as standby', [])
  if (found?.standby) return []
  const rows = await query<{ cluster: string }>(
    `select m.cluster from $$.members m left join $$.sweeps s on s.cluster = m.cluster
    group by m.cluster
    having not coalesce(bool_or(s.swept_at > clock_timestamp() - greatest(interval '10 s', 3 * s.pace)), false)
    order by 1`,
    [],
  )
  const findings = await openSweeps(query)
  if (rows.length > 0) {
    findings.push({
      code: 'sweeping',
      severity: 'alert',
      what: `nobody sweeps ${listed(rows.map(({ cluster }) => JSON.stringify(cluster)))}`,
      consequence: 'Members that die are not removed.',
      todo: 'Start a process that reads or joins the cluster: each of them sweeps. See its log for failed sweeps.',
    })
  }
  return findings.length > 0 ? findings : [ok('sweeping', 'every cluster with members is swept')]
}

/** Others have passed it by, and its row of the watch is still locked. Otherwise they would have deleted that row. */
async function openSweeps(query: Query): Promise<Finding[]> {
  const rows = await query<{ cluster: string; holder: string }>(
    `select o.cluster, coalesce(
        'pid ' || l.pid || ', role ' || a.usename, 'prepared transaction ' || p.gid || ', role ' || p.owner,
        'pg_locks tells who has a lock on the table sweeps'
      ) as holder
    from $$.sweeps o
    left join pg_locks l on l.locktype = 'transactionid' and l.granted and l.transactionid = o.xmax and l.pid is not null
    left join pg_stat_activity a on a.pid = l.pid
    left join pg_prepared_xacts p on p.transaction = o.xmax
    where exists (select from $$.sweeps s where s.cluster = o.cluster and s.swept_at > o.swept_at + interval '5 s')
    order by 1, 2`,
    [],
  )
  return rows.map(({ cluster, holder }) => ({
    code: 'sweeping',
    severity: 'alert',
    what: `a transaction has swept ${JSON.stringify(cluster)} and is still open (${holder})`,
    consequence: 'What it removed stays listed, and it may keep others from joining, changing and leaving.',
    todo: 'End it: select pg_terminate_backend(PID), rollback prepared.',
  }))
}

const kept: Check = async ({ query }) => {
  const rows = await query<{ member: string; holder: string; begun: string | null }>(
    `select c.name || ' ' || k.member as member,
      coalesce('prepared transaction ' || k.gid, 'pid ' || k.pid || ' (' || k.application_name || ')', 'a transaction') as holder,
      to_char(k.begun_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as begun
    from $$.clusters c cross join lateral $$.kept_past_ttl(c.name) k order by 1, 2`,
    [],
  )
  if (rows.length === 0) return [ok('kept-members', 'no transaction keeps a member that is past its ttl')]
  const words = rows.map(
    ({ member, holder, begun }) => `${member} by ${holder}${begun === null ? '' : ` since ${begun}`}`,
  )
  return [
    {
      code: 'kept-members',
      severity: 'alert',
      what: `kept beyond their ttl by a fence or another lock: ${listed(words)}`,
      consequence: 'Nobody can remove them: nobody else leads, and nobody gets their keys.',
      todo: `End the transaction: select pg_terminate_backend(PID), or rollback prepared 'GID'.`,
    },
  ]
}

export const memberChecks = { 'members-overdue': overdue, 'kept-members': kept, sweeping }
