import { expect, test } from 'vitest'
import { freshSchema, uniqueName, type AdminClient } from '../support/database.js'
import { openAdmin } from '../support/opened.js'

const MANY = 1_000

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
