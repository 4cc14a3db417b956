/** What somebody outside may hold, so that an act has to stop there, and how to see who waits for what. */
import { setTimeout as pause } from 'node:timers/promises'
import type { AdminClient } from './database.js'
import type { Thing } from './pairs-acts.js'
import type { Stage } from './pairs-stage.js'

/** Done, before its transaction ends. */
export const COMMIT = 'its commit'

/** Besides, somebody holds what the act has left free of the member. */
export const COMMIT_AND_HELD = 'its commit, while somebody holds the member'

/** Rows that a third session locks before an act begins; each as large applications and people do it. */
export const HOLDS: Readonly<Record<string, (stage: Stage) => string>> = {
  [COMMIT_AND_HELD]: (s) =>
    `select from ${s.schema}.members where id = '${s.subject.id}' for no key update skip locked`,
  'the member': (s) => `select from ${s.schema}.members where id = '${s.subject.id}' for update`,
  'the member, as a fence does': (s) =>
    `select from ${s.schema}.members where id = '${s.subject.id}' for key share`,
  'the member, for share': (s) => `select from ${s.schema}.members where id = '${s.subject.id}' for share`,
  'the dead member': (s) => `select from ${s.schema}.members where id = '${s.dead.id}' for no key update`,
  'the cluster': (s) => `select from ${s.schema}.clusters where name = '${s.cluster}' for update`,
  'a new cluster': (s) =>
    `insert into ${s.schema}.clusters (name, channel) values ('${s.secondCluster}', 'none')`,
  'the watch': (s) => `select from ${s.schema}.sweeps where cluster = '${s.cluster}' for update`,
  'a heartbeat that was kept': (
    s,
  ) => `select from ${s.schema}.members where id = '${s.subject.id}' for update;
    delete from ${s.schema}.held_heartbeats where member = '${s.subject.id}'`,
  'a heartbeat that is being kept': (
    s,
  ) => `delete from ${s.schema}.held_heartbeats where member = '${s.subject.id}';
    select from ${s.schema}.members where id = '${s.subject.id}' for update;
    insert into ${s.schema}.held_heartbeats values ('${s.cluster}', '${s.subject.id}', ${s.subject.token}, clock_timestamp())`,
  'an eviction': (s) => `select from ${s.schema}.evictions where cluster = '${s.cluster}' for update`,
  'a claim': (s) => `select from ${s.schema}.claims where cluster = '${s.cluster}' for update`,
  'a claim that is being made': (s) => `insert into ${s.schema}.claims (cluster, space, key, member, token)
    select cluster, '', 'second key', id, token from ${s.schema}.members where id = '${s.other.id}'`,
  'a nonce': (s) => `select from ${s.schema}.nonces where cluster = '${s.cluster}' for update`,
  'a nonce that is being stocked': (s) =>
    `insert into ${s.schema}.nonces (cluster, name, value) values ('${s.cluster}', 'pool', 'stocked')`,
  'the members’ channel': (s) =>
    `select from ${s.schema}.members_channels where cluster = '${s.cluster}' for update`,
  'the retention': (s) => `select from ${s.schema}.retention for update`,
  'the log': (s) => `select from ${s.schema}.events where member = '${s.past}' for update`,
  'a row of the application': (s) =>
    `select from ${s.schema}.work where member in ('${s.subject.id}', '${s.dead.id}') for update`,
}

/**
 * Whoever waits for a row's lock holds the tuple's, to be the next. A row that nobody sees yet has none. Commits that
 * notify take turns (object), and so do those that make a table longer (extend): that is no wait for a transaction.
 */
const WAIT = `
  with locks as materialized (
    select * from pg_locks where pid = $1 and locktype not in ('object', 'extend', 'virtualxid')
  )
  select coalesce((
    select relname from locks l join pg_class c on c.oid = l.relation
    where l.locktype = 'tuple' or not l.granted order by l.granted limit 1
  ), 'an entry') as thing, pg_blocking_pids($1) as by
  where exists (select from locks where not granted) and cardinality(pg_blocking_pids($1)) > 0`

export interface Wait {
  readonly thing: Thing
  readonly by: readonly number[]
}

const POLL_MS = 3

/** Watches until the backend has ended what it does, which is null, or waits for a lock. */
export async function endOrWait(
  admin: AdminClient,
  pid: number,
  ended: Promise<unknown>,
): Promise<Wait | null> {
  const over = ended.then(() => true)
  // Most end at once.
  while (!(await Promise.race([over, pause(POLL_MS, false)]))) {
    const { rows } = await admin.query<Wait>({ name: 'wait', text: WAIT, values: [pid] })
    const [wait] = rows
    // It may have ended, or got what it waited for, while this was looked at.
    if (wait && !(await Promise.race([over, Promise.resolve(false)]))) return wait
  }
  return null
}
