/** The members: whether the dead are removed, and who is to do it. */
import type { Query } from '../database.js'
import { duration } from '../table.js'
import { type Check, type Finding, ok } from './finding.js'

interface ClusterRow {
  readonly cluster: string
  readonly members: number
  readonly overdue: number
  /** null: nobody has swept since the server started. */
  readonly swept_ms: number | null
  readonly pace_ms: number | null
}

const CLUSTERS = `
  select m.cluster, count(*)::int as members, count(*) filter (where m.silent_for > m.ttl)::int as overdue,
    max(extract(epoch from clock_timestamp() - s.swept_at))::float8 * 1000 as swept_ms,
    max(extract(epoch from s.pace))::float8 * 1000 as pace_ms
  from $$.members_now m left join $$.sweeps s on s.cluster = m.cluster group by m.cluster order by 1`

/** A sweep that is late by so much is late: processes may be paused for a moment. */
const SLACK_MS = 5_000

async function sweeping(query: Query): Promise<readonly Finding[]> {
  const rows = await query<ClusterRow>(CLUSTERS, [])
  const idle = rows.filter(
    ({ swept_ms, pace_ms }) => swept_ms === null || swept_ms > 4 * (pace_ms ?? 0) + SLACK_MS,
  )
  const overdue = rows.filter((row) => row.overdue > 0 && !idle.includes(row))
  const count = rows.reduce((sum, { members }) => sum + members, 0)
  const findings: Finding[] = [
    ...idle.map(({ cluster, members, overdue: late, swept_ms }): Finding => ({
      code: 'no-sweeper',
      severity: 'alert',
      what: `Nobody sweeps the cluster ${JSON.stringify(cluster)}: ${swept_ms === null ? 'never since the server started' : `last ${duration(swept_ms)} ago`}. It has ${String(members)} members, ${String(late)} of them past their ttl.`,
      consequence: 'Members that have died stay in the table for as long as this goes on.',
      todo: 'Start a process that has a PostgresCluster of this name: members and readers sweep by turns.',
    })),
    ...overdue.map(({ cluster, overdue: late }): Finding => ({
      code: 'overdue',
      severity: 'warning',
      what: `In the cluster ${JSON.stringify(cluster)} ${String(late)} members are past their ttl, although somebody sweeps.`,
      consequence: 'They are still shown. This is normal for a moment after sweeping had a break.',
      todo: 'Look again after a ttl. If they stay, something holds their rows: look at locks and at foreign keys.',
    })),
  ]
  if (findings.length > 0) return findings
  return [
    ok(
      'sweeping',
      `${String(count)} members in ${String(rows.length)} clusters, all heard of within their ttl.`,
    ),
  ]
}

export const memberChecks: readonly Check[] = [{ code: 'sweeping', run: sweeping }]
