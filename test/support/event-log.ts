/** A cluster as its tables show it, and as it must be by its log. */
import type { Member } from 'pg-membership'
import { expect } from 'vitest'
import type { AdminClient } from './database.js'

export interface LoggedEvent {
  readonly revision: number
  readonly stamp: string
  /** Microseconds of the server's clock. */
  readonly at: bigint
  readonly kind: 'joined' | 'updated' | 'left'
  readonly reason: string
  readonly member: string
  readonly token: number
  readonly registeredAt: string
  readonly data: string | null
}

interface EventRow {
  revision: string
  stamp: string
  at: string
  kind: LoggedEvent['kind']
  reason: string
  member: string
  token: string
  registered_at: Date
  data: Buffer | null
}

export async function eventsOf(
  admin: AdminClient,
  schema: string,
  cluster: string,
  afterRevision = 0,
): Promise<LoggedEvent[]> {
  const { rows } = await admin.query<EventRow>(
    `select *, (extract(epoch from at) * 1000000)::bigint::text as at
     from ${schema}.events where cluster = $1 and revision > $2 order by revision`,
    [cluster, afterRevision],
  )
  return rows.map(({ revision, at, token, registered_at, data, ...row }) => ({
    ...row,
    revision: Number(revision),
    at: BigInt(at),
    token: Number(token),
    registeredAt: registered_at.toISOString(),
    data: data?.toString() ?? null,
  }))
}

/** 'joined registered', … : what happened, at a glance. */
export async function storyOf(admin: AdminClient, schema: string, cluster: string): Promise<string[]> {
  return (await eventsOf(admin, schema, cluster)).map(({ kind, reason }) => `${kind} ${reason}`)
}

export async function tableOf(
  admin: AdminClient,
  schema: string,
  cluster: string,
): Promise<{ readonly revision: number; readonly members: Member[] }> {
  const { rows } = await admin.query<{
    revision: string
    id: string | null
    token: string
    data: Buffer
    registered_at: Date
  }>(
    `select c.revision, m.id, m.token, m.data, m.registered_at
     from ${schema}.clusters c left join ${schema}.members m on m.cluster = c.name
     where c.name = $1 order by m.token`,
    [cluster],
  )
  const members = rows.flatMap(({ id, token, data, registered_at }) =>
    id === null
      ? []
      : [{ id, data: data.toString(), token: Number(token), registeredAt: registered_at.toISOString() }],
  )
  return { revision: Number(rows[0]?.revision ?? 0), members }
}

/** Applies the log to an empty cluster, and calls back after each revision. Throws where it makes no sense. */
export function replay(
  events: readonly LoggedEvent[],
  each: (revision: number, members: readonly Member[]) => void = () => undefined,
): Member[] {
  const members = new Map<string, Member>()
  for (const event of events) {
    apply(event, members)
    each(event.revision, [...members.values()])
  }
  return [...members.values()]
}

/** What one event makes of the members, by id, oldest registration first. */
export function apply(event: LoggedEvent, members: Map<string, Member>): void {
  const { revision, kind, member, token, registeredAt, data } = event
  const present = members.get(member)
  const is = JSON.stringify(present)
  if (kind === 'joined') {
    if (present) throw new Error(`revision ${revision}: ${member} joined as ${token}, and is ${is}`)
    members.set(member, { id: member, data: data ?? '', token, registeredAt })
  } else {
    if (present?.token !== token) throw new Error(`revision ${revision}: ${kind} as ${token}, and is ${is}`)
    if (kind === 'left') members.delete(member)
    else members.set(member, { ...present, data: data ?? '', registeredAt })
  }
}

/** Every revision once; time, tokens and stamps in order; and from it follows the table, exactly. */
export async function expectWholeLog(
  admin: AdminClient,
  schema: string,
  cluster: string,
  hint = '',
): Promise<LoggedEvent[]> {
  const table = await tableOf(admin, schema, cluster)
  const events = await eventsOf(admin, schema, cluster)
  expect(
    events.map(({ revision }) => revision),
    `every revision once ${hint}`,
  ).toEqual(Array.from({ length: table.revision }, (_, n) => n + 1))
  const joins = events.filter(({ kind }) => kind === 'joined')
  for (const [n, event] of events.entries()) {
    const before = events[n - 1]
    if (before && event.at < before.at) {
      expect.fail(`time went back at revision ${event.revision} by ${before.at - event.at} us ${hint}`)
    }
  }
  for (const [n, event] of joins.entries()) {
    if (event.token <= (joins[n - 1]?.token ?? 0)) expect.fail(`token ${event.token} is not higher ${hint}`)
  }
  expect(replay(events), `the log tells the table ${hint}`).toEqual(table.members)
  return events
}

/** Whether what is visible of the log at this moment ends where the cluster is, without a gap. */
export async function seesNoGap(admin: AdminClient, schema: string, cluster: string): Promise<boolean> {
  const { rows } = await admin.query<{ whole: boolean }>(
    `select c.revision = count(e.revision) and c.revision = coalesce(max(e.revision), 0) as whole
     from ${schema}.clusters c left join ${schema}.events e on e.cluster = c.name
     where c.name = $1 group by c.name`,
    [cluster],
  )
  return rows[0]?.whole ?? true
}

/** As if nothing had been heard of these members for a day, and somebody had watched all the time. */
export async function silence(
  admin: AdminClient,
  schema: string,
  cluster: string,
  ids: readonly string[],
): Promise<void> {
  await admin.query(
    `update ${schema}.sweeps set resumed_at = clock_timestamp() - interval '1 day', swept_at = clock_timestamp()
     where cluster = $1`,
    [cluster],
  )
  await admin.query(
    `update ${schema}.members set heartbeat_at = clock_timestamp() - interval '1 day' where id = any ($1)`,
    [ids],
  )
}

/** Rows typed by hand, as somebody in psql would; oldest first. */
export async function typeMembers(
  admin: AdminClient,
  schema: string,
  cluster: string,
  data: readonly string[],
): Promise<string[]> {
  const ids: string[] = []
  for (const text of data) {
    const { rows } = await admin.query<{ id: string }>(
      `insert into ${schema}.members (id, cluster, data)
       values (gen_random_uuid(), $1, $2) returning id`,
      [cluster, Buffer.from(text)],
    )
    ids.push(rows[0]?.id ?? '')
  }
  return ids
}

/** As a standby that was promoted without the last commits: everything after this revision never was. */
export async function loseCommits(
  admin: AdminClient,
  schema: string,
  name: string,
  revision: number,
): Promise<void> {
  await admin.query('begin')
  // Replication does not fire triggers either.
  await admin.query('set local session_replication_role = replica')
  const lost = [name, revision]
  await admin.query(
    `delete from ${schema}.members m using ${schema}.events e
     where e.cluster = $1 and e.revision > $2 and e.kind = 'joined' and (m.id, m.token) = (e.member, e.token)`,
    lost,
  )
  await admin.query(`delete from ${schema}.events where cluster = $1 and revision > $2`, lost)
  await admin.query(
    `update ${schema}.members m set data = e.data, revision = e.revision from (
       select distinct on (member, token) member, token, data, revision from ${schema}.events
       where cluster = $1 and kind <> 'left' order by member, token, revision desc
     ) e where (m.id, m.token) = (e.member, e.token) and m.data <> e.data`,
    [name],
  )
  await admin.query(
    `update ${schema}.clusters c set revision = $2, stamp = e.stamp,
       last_token = (select max(token) from ${schema}.events where cluster = $1)
     from ${schema}.events e where c.name = $1 and e.cluster = $1 and e.revision = $2`,
    lost,
  )
  await admin.query('commit')
}
