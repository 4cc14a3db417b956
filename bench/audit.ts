/**
 * How long the audit's questions take with a million events: `npx tsx bench/audit.ts`.
 *
 * It runs on a PostgreSQL of its own with default settings (fsync on), or on that of DATABASE_URL. It prints
 * the median and the 99th percentile of each question, then the plans in short.
 */
import { performance } from 'node:perf_hooks'
import pg from 'pg'
import { migrate } from 'pg-membership'
import { startPostgres } from '../test/support/postgres-server.js'

const SCHEMA = 'bench_audit'
const ROUNDS = 300

interface Question {
  readonly title: string
  readonly sql: string
  /** Other ones each time: nobody asks the same question twice. */
  readonly values: () => unknown[]
}

const DAY_MS = 86_400_000
const DAYS = 60
const any = <T>(items: readonly T[]): T => items[Math.floor(Math.random() * items.length)] as T
const sometime = (): string => new Date(Date.now() - Math.random() * (DAYS - 1) * DAY_MS).toISOString()
const aPeriod = (hours: number): [string, string] => {
  const since = sometime()
  return [since, new Date(Date.parse(since) + hours * 3_600_000).toISOString()]
}

function questions(
  big: string,
  small: readonly string[],
  members: readonly string[],
  busiest: string,
): Question[] {
  const every = (title: string, sql: string, more: () => unknown[] = () => []): Question[] => [
    { title: `${title}, largest cluster`, sql, values: () => [big, ...more()] },
    { title: `${title}, other clusters`, sql, values: () => [any(small), ...more()] },
  ]
  const stays = 'select * from stays where member = $1 order by joined_at desc limit 20'
  const changes = 'select * from changes where member = $1 order by at desc limit 20'
  return [
    ...every('members now', 'select * from members_now where cluster = $1 order by token'),
    ...every('members at a time', 'select * from members_at($1, $2)', () => [sometime()]),
    ...every('stays in a period of 1 hour', 'select * from stays_between($1, $2, $3)', () => aPeriod(1)),
    ...every('the newest 50 stays', 'select * from stays_between($1, newest => 50)'),
    ...every(
      'the newest 50 changes',
      'select * from changes where cluster = $1 order by revision desc limit 50',
    ),
    ...every(
      'changes in a period of 15 minutes',
      'select * from changes where cluster = $1 and at between $2 and $3 order by at',
      () => aPeriod(0.25),
    ),
    { title: 'stays of a member', sql: stays, values: () => [any(members)] },
    { title: 'stays of the busiest member', sql: stays, values: () => [busiest] },
    { title: 'changes of a member', sql: changes, values: () => [any(members)] },
    { title: 'changes of the busiest member', sql: changes, values: () => [busiest] },
  ]
}

async function measure(client: pg.Client, { title, sql, values }: Question): Promise<void> {
  const times: number[] = []
  let rows = 0
  for (let n = 0; n < ROUNDS; n += 1) {
    const asked = values()
    const start = performance.now()
    rows += (await client.query(sql, asked)).rowCount ?? 0
    times.push(performance.now() - start)
  }
  times.sort((a, b) => a - b)
  const at = (share: number): string => (times[Math.ceil(share * ROUNDS) - 1] ?? 0).toFixed(1).padStart(8)
  console.log(
    `${title.padEnd(52)}${String(Math.round(rows / ROUNDS)).padStart(6)}${at(0.5)}${at(0.99)}${at(1)}`,
  )
}

/** A line of a plan, without what every line repeats. */
function brief(line: string): string {
  return line
    .replace(/'\{[^}]*\}'::interval\[\]/g, '…')
    .replace(/::(text|uuid|timestamp with time zone)/g, '')
}

/** Prints the scans of a plan, without the estimates of the planner. */
async function showPlan(client: pg.Client, title: string, sql: string): Promise<void> {
  // The same settings as those of the functions that ask this.
  const inFunction = title.includes(' as ') ? 'off' : 'on'
  await client.query(`set enable_sort = ${inFunction}; set enable_bitmapscan = ${inFunction}`)
  const { rows } = await client.query<Record<string, string>>(
    `explain (analyze, buffers, costs off, timing off, summary on) ${sql}`,
  )
  const lines = rows.map((row) => row['QUERY PLAN'] ?? '')
  const planning = lines.findIndex((line) => line.startsWith('Planning'))
  const shown = lines
    .slice(0, planning)
    .filter((line) => !/Sort Method|Index Searches|Heap Fetches|Rows Removed|Disabled/.test(line))
  const total = lines.find((line) => line.startsWith('Execution Time')) ?? ''
  console.log(`\n${title}\n${[...shown, total].map((line) => `  ${brief(line)}`).join('\n')}`)
}

/** Ten stays under each id, one after the other; lengths from a second to three days, as many short as long ones. */
const HISTORY = `
  create temp table lives as
  select row_number() over (partition by cluster order by joined) as token, s.* from (
    select cluster, member, length, updates, born + sum(length + interval '10 s') over (partition by member order by n) - length as joined
    from (
      select n, case when n / 10 % 2 = 0 then 'big' when n / 10 % 10 < 8 then 'medium ' || n / 10 % 20 else 'small ' || n / 100 % 200 end as cluster,
        md5('member ' || n / 10)::uuid as member, interval '1 second' * exp(ln(259200.0) * random()) as length,
        first_value(clock_timestamp() - interval '${String(DAYS)} days' * random()) over (partition by n / 10) as born,
        floor(-ln(1 - random()) * 1.2)::int as updates
      from generate_series(1, 320000) n
    ) lives
    union all
    select 'big', 'ffffffff-ffff-4fff-bfff-ffffffffffff', interval '30 days', 100000, clock_timestamp() - interval '31 days'
  ) s where joined < clock_timestamp();
  analyze lives;
  insert into events (cluster, revision, stamp, at, kind, reason, member, token, registered_at, data)
  select cluster, row_number() over (partition by cluster order by at), gen_random_uuid(), at, kind, reason, member, token, joined, data
  from (
    select cluster, joined as at, 'joined' as kind, 'registered' as reason, member, token, joined,
      convert_to('http://10.0.0.' || token % 250 || ':8080', 'UTF8') as data
    from lives
    union all
    select cluster, joined + length * n / (updates + 1), 'updated', 'data', member, token, joined,
      convert_to('http://10.0.0.' || token % 250 || ':8080 load ' || n, 'UTF8')
    from lives, generate_series(1, updates) n where joined + length * n / (updates + 1) < clock_timestamp()
    union all
    select cluster, joined + length, 'left', (array['deregistered', 'expired', 'crashed'])[1 + token % 3], member, token, joined, null
    from lives where joined + length < clock_timestamp()
  ) history order by at;
  insert into clusters (name, revision, last_token, channel)
  select cluster, max(revision), max(token), channel(cluster) from events group by cluster;
  alter table members disable trigger user;
  insert into members (id, cluster, data, token, registered_at, heartbeat_at)
  select distinct on (member) member, cluster, '10.0.0.1', token, joined, clock_timestamp()
  from lives where joined + length >= clock_timestamp();
  alter table members enable trigger user;`

const PLANS: readonly (readonly [title: string, sql: string])[] = [
  ['Members of the largest cluster now', `select * from members_now where cluster = 'big'`],
  [
    'Ended stays that were going on at a time, as members_at finds them',
    `
    select e.* from unnest('{1 s,5 s,30 s,2 min,10 min,1 h,6 h,24 h,168 h,720 h,8760 h,87600 h,null}'::interval[])
      with ordinality class (longest, n)
    cross join lateral (
      select * from events e where e.cluster = 'big' and e.kind = 'left'
        and width_bucket(e.at - e.registered_at, '{1 s, 5 s, 30 s, 2 min, 10 min, 1 h, 6 h, 24 h, 168 h, 720 h, 8760 h, 87600 h}'::interval[]) = class.n - 1
        and e.at > '$T' and e.at <= coalesce('$T'::timestamptz + class.longest, 'infinity') and e.registered_at <= '$T'
    ) e`,
  ],
  [
    'What each of them carried then, as members_at finds it',
    `
    select c.data from events c where c.member = 'ffffffff-ffff-4fff-bfff-ffffffffffff' and c.at <= '$T' and c.token = $TOKEN
      and c.cluster = 'big' and c.kind <> 'left' order by c.at desc, c.revision desc limit 1`,
  ],
  [
    'The newest stays of a cluster, as stays_between finds them',
    `
    select * from events e where e.cluster = 'big' and e.kind = 'left' and e.at between '-infinity' and 'infinity'
    order by e.at desc limit 50`,
  ],
  [
    'Stays of the busiest member',
    `select * from stays where member = 'ffffffff-ffff-4fff-bfff-ffffffffffff'`,
  ],
  [
    'The newest changes of a cluster',
    `select * from changes where cluster = 'big' order by revision desc limit 50`,
  ],
  [
    'Changes of a cluster in a period',
    `
    select * from changes where cluster = 'big' and at between '$T' and '$T'::timestamptz + interval '15 min' order by at`,
  ],
  [
    'Changes of the busiest member',
    `
    select * from changes where member = 'ffffffff-ffff-4fff-bfff-ffffffffffff' order by at desc limit 20`,
  ],
]

async function main(connection: string): Promise<void> {
  await migrate({ connection, schema: SCHEMA })
  const client = new pg.Client({ connectionString: connection })
  await client.connect()
  try {
    await client.query(`set search_path = ${SCHEMA}`)
    await client.query(HISTORY)
    await client.query('vacuum analyze events')
    await client.query('vacuum analyze members')
    const { rows } = await client.query<{ version: string; events: string; members: string; size: string }>(
      `select current_setting('server_version') as version, count(*) as events, (select count(*) from members) as members,
        pg_size_pretty(pg_total_relation_size('events')) as size from events`,
    )
    console.log(
      `PostgreSQL ${rows[0]?.version ?? ''}, ${rows[0]?.events ?? ''} events (${rows[0]?.size ?? ''}), ${rows[0]?.members ?? ''} members\n`,
    )
    console.log(`${'question'.padEnd(52)}  rows  p50 ms  p99 ms  max ms`)
    const names = await client.query<{ name: string }>(`select name from clusters where name <> 'big'`)
    const ids = await client.query<{ id: string }>('select distinct member as id from events limit 2000')
    const small = names.rows.map(({ name }) => name)
    const members = ids.rows.map(({ id }) => id)
    for (const question of questions('big', small, members, 'ffffffff-ffff-4fff-bfff-ffffffffffff'))
      await measure(client, question)
    const busiest = await client.query<{ token: string }>(
      `select token from lives where member = 'ffffffff-ffff-4fff-bfff-ffffffffffff'`,
    )
    const time = new Date(Date.now() - 20 * DAY_MS).toISOString()
    for (const [title, sql] of PLANS) {
      await showPlan(
        client,
        title,
        sql.replaceAll('$TOKEN', busiest.rows[0]?.token ?? '').replaceAll('$T', time),
      )
    }
  } finally {
    await client.query(`drop schema if exists ${SCHEMA} cascade`)
    await client.end()
  }
}

if (process.env.DATABASE_URL) {
  await main(process.env.DATABASE_URL)
} else {
  await using server = await startPostgres()
  await main(server.url)
}
