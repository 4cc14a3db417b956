/** Members and those who sweep: whether the dead are removed. */
import { type Check, listed, ok } from './finding.js'

const overdue: Check = async ({ query }) => {
  const rows = await query<{ member: string }>(
    `select m.cluster || ' ' || m.id as member from $$.members m
    where m.heartbeat_at + m.ttl + interval '5 s' < clock_timestamp() order by m.heartbeat_at`,
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
  if (rows.length === 0) return [ok('sweeping', 'every cluster with members is swept')]
  return [
    {
      code: 'sweeping',
      severity: 'alert',
      what: `nobody sweeps ${listed(rows.map(({ cluster }) => JSON.stringify(cluster)))}`,
      consequence: 'Members that die are not removed.',
      todo: 'Start a process that reads or joins the cluster: each of them sweeps. See its log for failed sweeps.',
    },
  ]
}

export const memberChecks = { 'members-overdue': overdue, sweeping }
