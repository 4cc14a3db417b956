/** Everything that writes, and for what each may wait: the table that test/pairs.test.ts holds the database to. */
import type { Stage } from './pairs-stage.js'

/** Whose row somebody waits for; an entry: a row with the same key that nobody can see yet. */
export type Thing =
  | 'members'
  | 'clusters'
  | 'sweeps'
  | 'held_heartbeats'
  | 'evictions'
  | 'claims'
  | 'nonces'
  | 'members_channels'
  | 'retention'
  | 'events'
  | 'work'
  | 'an entry'

export interface Act {
  readonly sql: (stage: Stage) => string
  /** What must have happened before. */
  readonly before?: (stage: Stage) => string
  readonly waitsFor: readonly Thing[]
  /** Only beside another act. */
  readonly alsoWaitsFor?: readonly Thing[]
  /** Its own lock_timeout; what a person types has none. */
  readonly boundMs?: number
  /** How it may refuse, beside conflicts that are tried again: what it depends on has ended meanwhile. */
  readonly refuses?: readonly string[]
  /** Why the log may say that the subject left. */
  readonly removes?: string
}

function register(schema: string, cluster: string, id: string, floor: number): string {
  return `select * from ${schema}.register('${cluster}', array['${id}']::uuid[], array['again'::bytea], array[${floor}]::bigint[],
    '10 min', null, '', 0)`
}

/** Two attempts for one id at the same time: one fails, and is tried again. */
const TWICE = '23505'
const NO_CLUSTER = 'P0002'

/** The subject, as functions for members take it, and as those for claims and nonces do. */
function registration({ subject }: Stage): string {
  return `array['${subject.id}']::uuid[], array[${subject.token}]::bigint[]`
}

function own({ cluster, subject }: Stage, within = ''): string {
  return `'${cluster}', '${within}', '${subject.id}', ${subject.token}`
}

const REMOVAL: readonly Thing[] = ['clusters', 'work', 'claims', 'nonces']

/**
 * A heartbeat and the short path of a sweep wait for nobody (promise 7). A sweep waits for a moment, to remove who is
 * gone. All others wait for what they need, each for a bounded time (promise 11).
 */
const acts = {
  register: {
    sql: (s) => register(s.schema, s.cluster, s.newcomer, 0),
    waitsFor: ['clusters'],
    boundMs: 1_000,
    refuses: [TWICE],
  },
  'register, the first of a cluster': {
    sql: (s) => register(s.schema, s.secondCluster, s.secondNewcomer, 0),
    waitsFor: ['an entry'],
    alsoWaitsFor: ['clusters'],
    boundMs: 1_000,
    refuses: [TWICE],
  },
  'register, again': {
    sql: (s) => register(s.schema, s.cluster, s.subject.id, s.subject.token),
    waitsFor: REMOVAL,
    boundMs: 1_000,
    removes: 'superseded',
  },
  heartbeat: {
    sql: (s) => `with start as materialized (select clock_timestamp() as began)
      select began, beat.* from start, lateral ${s.schema}.heartbeat('${s.cluster}',
        array['${s.subject.id}', '${s.other.id}']::uuid[], array[${s.subject.token}, ${s.other.token}]::bigint[], '', 0) beat`,
    waitsFor: [],
    boundMs: 1_000,
  },
  set_data: {
    sql: (s) => `select * from ${s.schema}.set_data('${s.cluster}', ${registration(s)}, array['new'::bytea])`,
    waitsFor: ['clusters'],
    boundMs: 200,
  },
  deregister: {
    sql: (s) => `select * from ${s.schema}.deregister('${s.cluster}', ${registration(s)})`,
    waitsFor: REMOVAL,
    boundMs: 500,
    removes: 'deregistered',
  },
  sweep: {
    sql: (s) => `select * from ${s.schema}.sweep('${s.cluster}')`,
    waitsFor: ['clusters', 'work'],
    boundMs: 200,
  },
  'sweep, when sweeping resumes': {
    sql: (s) => `select * from ${s.schema}.sweep('${s.cluster}')`,
    before: (s) => `delete from ${s.schema}.sweeps where cluster = '${s.cluster}'`,
    waitsFor: [],
    boundMs: 200,
  },
  sweep_idle: {
    sql: (s) => `select * from ${s.schema}.sweep_idle(array['${s.cluster}'])`,
    waitsFor: [],
    boundMs: 200,
  },
  evict: {
    sql: (s) => `select ${s.schema}.evict('${s.cluster}', '${s.subject.id}', 'why')`,
    waitsFor: ['members', 'evictions', ...REMOVAL],
    alsoWaitsFor: ['an entry'],
    boundMs: 5_000,
    refuses: [NO_CLUSTER],
    removes: 'removed',
  },
  drain: {
    sql: (s) => `select ${s.schema}.drain('${s.cluster}', '${s.subject.id}', 'why')`,
    waitsFor: ['members', 'clusters', 'evictions'],
    alsoWaitsFor: ['an entry'],
    boundMs: 5_000,
    refuses: [NO_CLUSTER],
  },
  allow: {
    sql: (s) => `select ${s.schema}.allow('${s.cluster}', '${s.subject.id}')`,
    before: (s) => `select ${s.schema}.drain('${s.cluster}', '${s.subject.id}', 'why')`,
    waitsFor: ['members', 'evictions'],
    boundMs: 5_000,
  },
  fence: {
    sql: (s) => `select ${s.schema}.fence('${s.subject.id}'::uuid, ${s.subject.token}::bigint)`,
    waitsFor: ['members'],
    boundMs: 2_000,
    refuses: ['MB001'],
  },
  claim: {
    sql: (s) => `select ${s.schema}.claim(${own(s)}, '{key,second key}') as claimed`,
    waitsFor: ['members', 'an entry'],
    boundMs: 500,
    refuses: ['MB001'],
  },
  release: {
    sql: (s) => `select ${s.schema}.release(${own(s)}, '{key}')`,
    waitsFor: ['members'],
    boundMs: 500,
  },
  fence_claims: {
    sql: (s) => `select ${s.schema}.fence_claims(${own(s)}, '{key}')`,
    waitsFor: ['members', 'claims'],
    boundMs: 2_000,
    refuses: ['MB002'],
  },
  stock_nonces: {
    sql: (s) => `select ${s.schema}.stock_nonces('${s.cluster}', 'pool', '{taken,free,stocked}')`,
    waitsFor: ['an entry'],
    boundMs: 1_000,
  },
  take_nonces: {
    sql: (s) => `select ${s.schema}.take_nonces(${own(s, 'pool')}, '${s.newcomer}', '{}', 1) as taken`,
    waitsFor: ['members'],
    boundMs: 500,
    refuses: ['MB001'],
  },
  use_nonce: {
    sql: (s) => `select ${s.schema}.use_nonce(${own(s, 'pool')}, '${s.subject.id}', 'taken')`,
    waitsFor: ['members', 'nonces'],
    boundMs: 2_000,
    refuses: ['MB001'],
  },
  return_nonces: {
    sql: (s) =>
      `select ${s.schema}.return_nonces(${own(s, 'pool')}, '{taken}', array['${s.subject.id}']::uuid[], '{}')`,
    waitsFor: ['members'],
    boundMs: 500,
  },
  renew_members_channel: {
    sql: (s) => `select ${s.schema}.renew_members_channel('${s.cluster}')`,
    waitsFor: ['clusters', 'members_channels'],
    boundMs: 5_000,
  },
  drop_cluster: {
    sql: (s) => `select ${s.schema}.drop_cluster('${s.cluster}')`,
    before: (s) => `delete from ${s.schema}.members where cluster = '${s.cluster}'`,
    waitsFor: ['clusters', 'sweeps', 'held_heartbeats', 'members_channels', 'evictions', 'nonces', 'events'],
    boundMs: 5_000,
    refuses: ['55006'],
  },
  set_retention: {
    sql: (s) => `select ${s.schema}.set_retention('90 days', null)`,
    waitsFor: ['retention'],
    alsoWaitsFor: ['an entry'],
    boundMs: 5_000,
  },
  trim_events: {
    sql: (s) => `select ${s.schema}.trim_events('1 hour')`,
    waitsFor: ['events'],
    boundMs: 5_000,
  },
  'insert by hand': {
    sql: (s) => `insert into ${s.schema}.members (id, cluster) values ('${s.newcomer}', '${s.cluster}')`,
    waitsFor: ['clusters'],
    alsoWaitsFor: ['an entry'],
    refuses: [TWICE],
  },
  'update by hand': {
    sql: (s) => `update ${s.schema}.members set data = 'typed' where cluster = '${s.cluster}'`,
    waitsFor: ['members', 'clusters'],
  },
  'delete by hand': {
    sql: (s) => `delete from ${s.schema}.members where id = '${s.subject.id}'`,
    waitsFor: ['members', ...REMOVAL],
    removes: 'removed',
  },
} satisfies Record<string, Act>

export type ActName = keyof typeof acts
export const ACTS: Readonly<Record<ActName, Act>> = acts
