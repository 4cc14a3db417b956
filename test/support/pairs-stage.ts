/** A cluster of its own for each schedule of test/pairs.test.ts, and what must be true of it afterwards. */
import { randomUUID } from 'node:crypto'
import type pg from 'pg'
import { expect } from 'vitest'
import type { AdminClient } from './database.js'
import { eventsOf, replay, tableOf } from './event-log.js'
import { type ActName, ACTS } from './pairs-acts.js'

export interface Stage {
  readonly schema: string
  readonly cluster: string
  /** Not there yet. */
  readonly secondCluster: string
  /** A living member with a key, a nonce, and a row of the application's: all acts are about it. */
  readonly subject: { readonly id: string; readonly token: number }
  /** A living member to whom nobody does anything. */
  readonly other: { readonly id: string; readonly token: number }
  /** A member that has been silent for a day, with a row of the application's. */
  readonly dead: { readonly id: string; readonly token: number }
  /** The ids of nobody, here and there. */
  readonly newcomer: string
  readonly secondNewcomer: string
  /** A member of yesterday. */
  readonly past: string
}

/** How an act ended: with rows, or with an error's code. */
export interface Outcome {
  readonly act: ActName
  readonly code?: string
  readonly message?: string
  readonly row?: Readonly<Record<string, unknown>>
}

/** The application's table; once for each schema. */
export const WORK = (schema: string): string => `
  create table ${schema}.work (member uuid references ${schema}.members on delete cascade);
  create index on ${schema}.work (member);
  insert into ${schema}.retention (age) values ('90 days')`

/** How far into the log what is older than an hour reaches: trim_events takes it. */
const PAST = 2

export async function setStage(admin: AdminClient, schema: string, acts: readonly ActName[]): Promise<Stage> {
  const [past, subject, other, dead, newcomer, secondNewcomer] = Array.from({ length: 6 }, () =>
    randomUUID(),
  ) as [string, string, string, string, string, string]
  const cluster = `pair ${newcomer}`
  const registering = (
    ids: string,
  ): string => `select from ${schema}.register('${cluster}', '{${ids}}'::uuid[],
    array_fill(''::bytea, array[cardinality('{${ids}}'::uuid[])]), array_fill(0::bigint, array[cardinality('{${ids}}'::uuid[])]),
    '10 min', null, '', 0)`
  const token = `(select token from ${schema}.members where id = '${subject}')`
  const results = (await admin.query(`
    ${registering(past)};
    delete from ${schema}.members where id = '${past}';
    update ${schema}.events set at = at - interval '1 day', registered_at = registered_at - interval '1 day'
      where member = '${past}';
    ${registering([subject, other, dead].join())};
    insert into ${schema}.work values ('${subject}'), ('${dead}');
    select ${schema}.claim('${cluster}', '', '${subject}', ${token}, '{key}');
    select ${schema}.stock_nonces('${cluster}', 'pool', '{taken}');
    select ${schema}.take_nonces('${cluster}', 'pool', '${subject}', ${token}, '${subject}', '{}', 1);
    select ${schema}.stock_nonces('${cluster}', 'pool', '{free}');
    select from ${schema}.members_channel('${cluster}');
    insert into ${schema}.held_heartbeats values ('${cluster}', '${subject}', ${token}, clock_timestamp() - interval '1 s');
    insert into ${schema}.evictions (cluster, member, note, until)
      values ('${cluster}', '${subject}', 'over', clock_timestamp() - interval '1 s');
    update ${schema}.sweeps set resumed_at = clock_timestamp() - interval '1 day' where cluster = '${cluster}';
    update ${schema}.members set heartbeat_at = clock_timestamp() - interval '1 day' where id = '${dead}';
    select id, token::integer from ${schema}.members where cluster = '${cluster}' order by token`)) as unknown as pg.QueryResult<{
    id: string
    token: number
  }>[]
  const [first, second, third] = results.at(-1)?.rows ?? []
  if (!first || !second || !third) throw new Error('the stage has no members')
  const secondCluster = `${cluster} second`
  const stage = {
    schema,
    cluster,
    secondCluster,
    subject: first,
    other: second,
    dead: third,
    newcomer,
    secondNewcomer,
    past,
  }
  const before = [...new Set(acts)].flatMap((act) => ACTS[act].before?.(stage) ?? [])
  if (before.length > 0) await admin.query(before.join(';'))
  return stage
}

/** Whether the registration is there, for whoever looks now. */
export async function isRegistered(
  admin: AdminClient,
  { schema }: Stage,
  { id, token }: Stage['subject'],
): Promise<boolean> {
  const { rowCount } = await admin.query(`select from ${schema}.members where (id, token) = ($1, $2)`, [
    id,
    token,
  ])
  return rowCount === 1
}

/** The promises, when everybody has ended. */
export async function judge(admin: AdminClient, stage: Stage, outcomes: readonly Outcome[]): Promise<void> {
  const { schema, cluster, subject, other, dead } = stage
  const acts = outcomes.map(({ act }) => act)
  const did = (act: ActName): boolean => outcomes.some((some) => some.act === act && some.code === undefined)
  const isDropped = acts.includes('drop_cluster')

  if (!isDropped && !acts.includes('sweep, when sweeping resumes')) {
    const { rows } = await admin.query(`select removed, obstacles from ${schema}.sweep($1)`, [cluster])
    expect(rows, 'promise 6: a sweep has no obstacle').toMatchObject([{ obstacles: null }])
    expect(await isRegistered(admin, stage, dead), 'promise 6: the dead is removed').toBe(false)
  }
  if (!isDropped) expect(await isRegistered(admin, stage, other), 'promise 7: the living stay').toBe(true)

  const legal = new Set(acts.flatMap((act) => ACTS[act].removes ?? []))
  // Whoever removes a member that an operator has asked to leave does so for the operator.
  if (acts.some((act) => act === 'drain' || act === 'allow')) legal.add('removed')
  const clusters = acts.includes('register, the first of a cluster')
    ? [cluster, stage.secondCluster]
    : [cluster]
  for (const name of clusters) {
    const events = await expectWhole(admin, schema, name, did('trim_events') && name === cluster)
    for (const { kind, reason, member } of events) {
      if (kind !== 'left' || isDropped || member === stage.past) continue
      if (member === dead.id) expect(reason, 'promise 7: why the dead left').toBe('expired')
      else if (member === subject.id) expect([...legal], 'promise 7: why the subject left').toContain(reason)
      else expect.fail(`promise 7: ${member} ${kind}, ${reason}`)
    }
  }

  const { rows: state } = await admin.query<State>(STATE(stage))
  const [now] = state
  if (now === undefined) throw new Error('no state')
  expect(now.nonces_are_whole, 'promise 20: a nonce is free, taken or used').toBe(true)
  if (did('use_nonce') && !isDropped) {
    expect(now.used, 'promise 19: what was used stays so').toContain('taken')
  }
  const stays = now.token === String(subject.token)
  for (const { act, code, row } of outcomes) {
    if (code !== undefined) continue
    if (act === 'heartbeat' && stays && !isMissing(row, stage)) {
      expect(now.heard_at >= (row?.began as Date), 'promise 7: a heartbeat that was answered counts').toBe(
        true,
      )
    }
    if (act === 'take_nonces' && stays && !acts.includes('return_nonces') && !acts.includes('use_nonce')) {
      expect(now.taken, 'promise 20: what was taken is the registration’s').toEqual(
        expect.arrayContaining(row?.taken as string[]),
      )
    }
    if (act === 'claim' && stays && !acts.includes('release')) {
      expect(now.claims, 'promise 17: what was claimed is the registration’s').toEqual(
        expect.arrayContaining(row?.claimed as string[]),
      )
    }
    if (act === 'register' && typeof row?.token === 'string') {
      expect(now.newcomer, 'promise 1: who was registered is there').toBe(row.token)
    }
    if (isDropped) continue
    if (act === 'evict' && !acts.includes('allow')) {
      expect(now.token, 'promise 8: who is evicted does not come back').toBeNull()
      expect(now.evicted, 'promise 15: the log names who evicts').toBe(true)
    }
    if (act === 'drain' && !acts.includes('allow')) {
      expect(
        now.evicted && (now.token === null || now.draining),
        'promise 8: who is drained is not renewed',
      ).toBe(true)
    }
  }
}

interface State {
  /** Of the subject, if it is there. */
  readonly token: string | null
  readonly draining: boolean
  readonly heard_at: Date
  readonly newcomer: string | null
  readonly evicted: boolean
  readonly claims: readonly string[]
  readonly taken: readonly string[]
  readonly used: readonly string[]
  readonly nonces_are_whole: boolean
}

const STATE = ({ schema, cluster, subject, newcomer }: Stage): string => `
  select m.token, m.draining_since is not null as draining,
    greatest(m.heartbeat_at, (select h.at from ${schema}.held_heartbeats h where (h.member, h.token) = (m.id, m.token))) as heard_at,
    (select n.token from ${schema}.members n where n.id = '${newcomer}') as newcomer,
    exists (
      select from ${schema}.evictions v where v.cluster = '${cluster}' and v.member = '${subject.id}' and v.note = 'why'
    ) as evicted,
    array(select c.key::text from ${schema}.claims c where (c.member, c.token) = (m.id, m.token)) as claims,
    array(select n.value::text from ${schema}.nonces n where n.cluster = '${cluster}' and (n.member, n.token) = (m.id, m.token)) as taken,
    array(select n.value::text from ${schema}.nonces n where n.cluster = '${cluster}' and n.used_at is not null) as used,
    not exists (
      select from ${schema}.nonces n where n.cluster = '${cluster}'
        and (n.used_at is not null and n.member is not null or (n.member is null) <> (n.token is null))
    ) as nonces_are_whole
  from (select) one left join ${schema}.members m on m.id = '${subject.id}'`

/** By the answer to a heartbeat. */
function isMissing(answer: Outcome['row'], { subject }: Stage): boolean {
  return Array.isArray(answer?.missing) && answer.missing.includes(subject.id)
}

/** Promises 2 to 4, also where the past was trimmed. */
async function expectWhole(
  admin: AdminClient,
  schema: string,
  cluster: string,
  isTrimmed: boolean,
): ReturnType<typeof eventsOf> {
  const table = await tableOf(admin, schema, cluster)
  const events = await eventsOf(admin, schema, cluster)
  const from = isTrimmed ? PAST : 0
  expect(
    events.map(({ revision }) => revision).filter((revision) => revision > from),
    'promise 4: every revision once',
  ).toEqual(Array.from({ length: Math.max(0, table.revision - from) }, (_, n) => from + n + 1))
  const joins = events.filter(({ kind }) => kind === 'joined')
  for (const [n, { token }] of joins.entries()) {
    if (token <= (joins[n - 1]?.token ?? 0)) expect.fail(`promise 16: token ${token} is not higher`)
  }
  const { rows } = await admin.query<{ last_token: string }>(
    `select last_token from ${schema}.clusters where name = $1`,
    [cluster],
  )
  expect(joins.at(-1)?.token ?? 0, 'promise 16: no token was not handed out').toBeLessThanOrEqual(
    Number(rows[0]?.last_token ?? 0),
  )
  expect(replay(events), 'promise 2: the log tells the table').toEqual(table.members)
  return events
}
