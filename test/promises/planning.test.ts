import { expect, test } from 'vitest'
import { type AdminClient, freshSchema, uniqueName } from '../support/database.js'
import { openAdmin } from '../support/opened.js'

const MANY = 1_000
const LOG = 5_000

/** The members of a cluster that were read, by whatever way, while this was executed. */
async function readsOf(admin: AdminClient, schema: string, query: string): Promise<number> {
  await admin.query('begin')
  await admin.query(query)
  const { rows } = await admin.query<{ reads: string }>(
    `select seq_tup_read + coalesce(idx_tup_fetch, 0) as reads from pg_stat_xact_user_tables
     where relid = $1::regclass`,
    [`${schema}.members`],
  )
  await admin.query('commit')
  return Number(rows[0]?.reads)
}

test('promise 11: what a thousand members cost grows with their number, not with its square, also where the planner believes that there are none', async () => {
  const [schema, admin, cluster] = [await freshSchema(), await openAdmin(), uniqueName()]
  // All have left for the night, and then the statistics are gathered.
  await admin.query(
    `insert into ${schema}.members (id, cluster) select gen_random_uuid(), 'yesterday' from generate_series(1, ${MANY})`,
  )
  await admin.query(`delete from ${schema}.members`)
  await admin.query(`analyze ${schema}.members`)

  const many = (value: string): string => `(select array_agg(${value}) from generate_series(1, ${MANY}))`
  const all = (column: string): string =>
    `(select array_agg(${column} order by id) from ${schema}.members where cluster = '${cluster}')`
  const [ids, tokens] = [all('id'), all('token')]
  const session = `'nobody', 0`
  const calls = {
    register: `'${cluster}', ${many('gen_random_uuid()')}, ${many(`'x'::bytea`)}, ${many('0::bigint')}, '15 s', '400 ms', ${session}`,
    heartbeat: `'${cluster}', ${ids}, ${tokens}, ${session}`,
    sweep: `'${cluster}'`,
    set_data: `'${cluster}', ${ids}, ${tokens}, ${many(`'y'::bytea`)}`,
    deregister: `'${cluster}', ${ids}, ${tokens}`,
  }
  for (const [name, parameters] of Object.entries(calls)) {
    const reads = await readsOf(admin, schema, `select * from ${schema}.${name}(${parameters})`)
    expect(reads, `${name} of ${MANY} members reads so many`).toBeLessThan(50 * MANY)
  }
})

/** What was read of the log: pages of the table and its indexes, and rows without an index. */
interface LogRead {
  readonly pages: number
  readonly scanned: number
}

async function logReadBy(admin: AdminClient, schema: string, query: string): Promise<LogRead> {
  // Since the server last collected the numbers, which is not at the end of each transaction.
  const soFar = async (): Promise<LogRead> => {
    const { rows } = await admin.query<{ pages: string; scanned: string }>(
      `select pg_stat_get_xact_blocks_fetched(t.relid) + (
          select sum(pg_stat_get_xact_blocks_fetched(i.indexrelid)) from pg_index i where i.indrelid = t.relid
        ) as pages, t.seq_tup_read as scanned
       from pg_stat_xact_user_tables t where t.relid = $1::regclass`,
      [`${schema}.events`],
    )
    return { pages: Number(rows[0]?.pages), scanned: Number(rows[0]?.scanned) }
  }
  await admin.query('begin')
  const before = await soFar()
  await admin.query(query)
  await admin.query('set constraints all immediate')
  const { pages, scanned } = await soFar()
  await admin.query('commit')
  return { pages: pages - before.pages, scanned: scanned - before.scanned }
}

test('promise 11: what a call costs does not grow with the log, also where that was empty when it was planned', async () => {
  const [schema, admin, cluster] = [await freshSchema(), await openAdmin(), uniqueName()]
  await admin.query(`alter table ${schema}.events set (autovacuum_enabled = off)`)
  await admin.query(`select ${schema}.members_channel('${cluster}')`)
  const own = (column: string): string => `(select array_agg(${column}) from ${schema}.members)`
  const contents = (text: string): string => `array[convert_to('${text}', 'UTF8')]`
  const calls = {
    register: `'${cluster}', array[gen_random_uuid()], ${contents('new')}, '{0}', '15 s', '400 ms', 'nobody', 0, clock_timestamp() - interval '1 s'`,
    heartbeat: `'${cluster}', ${own('id')}, ${own('token')}, 'nobody', 0`,
    set_data: `'${cluster}', ${own('id')}, ${own('token')}, ${contents('changed')}`,
    sweep: `'${cluster}'`,
    sweep_idle: `'{${cluster}}'`,
    deregister: `'${cluster}', ${own('id')}, ${own('token')}`,
  }
  const readByAll = async (): Promise<Map<string, LogRead>> => {
    const reads = new Map<string, LogRead>()
    for (const [name, parameters] of Object.entries(calls)) {
      reads.set(name, await logReadBy(admin, schema, `select * from ${schema}.${name}(${parameters})`))
    }
    return reads
  }

  const short = await readByAll()
  // Of the same cluster: those who came, changed and left before.
  await admin.query(
    `insert into ${schema}.members (id, cluster) select gen_random_uuid(), $1 from generate_series(1, ${LOG})`,
    [cluster],
  )
  await admin.query(`delete from ${schema}.members`)
  const long = await readByAll()
  for (const [name, { pages, scanned }] of long) {
    expect(scanned, `${name} scans so many rows of the log`).toBe(0)
    expect(pages, `${name} reads so many pages of the log`).toBeLessThan((short.get(name)?.pages ?? 0) + 25)
  }
})
