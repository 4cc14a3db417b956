/** How much of the log is kept: by hand, and by sweeps. */
import { CompactedError } from 'pg-membership'
import { beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type AdminClient, adminClient, freshSchema, uniqueName } from '../support/database.js'
import { eventsOf, typeMembers } from '../support/event-log.js'
import { joined, openAdmin, openCluster } from '../support/opened.js'
import { until } from '../support/until.js'

const schema = await freshSchema()

let admin: AdminClient
beforeAll(async () => {
  admin = await adminClient()
  await admin.query(`set search_path = ${schema}`)
  return () => admin.end()
})
beforeEach(() => admin.query('select set_retention(null, null)'))

/** As if what the cluster has done so far had been done some days earlier. */
async function age(cluster: string, days: number): Promise<void> {
  const by = [cluster, days]
  const earlier = `registered_at = registered_at - $2 * interval '1 day'`
  await admin.query(`update events set at = at - $2 * interval '1 day', ${earlier} where cluster = $1`, by)
  await admin.query('alter table members disable trigger user')
  await admin.query(`update members set ${earlier} where cluster = $1`, by)
  await admin.query('alter table members enable trigger user')
}

/** Sweeps until sweeps find nothing more to trim. Returns how many it took. */
async function sweepAll(cluster: string): Promise<number> {
  for (let sweeps = 0; ; sweeps++) {
    const { rowCount } = await admin.query(
      'select from sweeps where cluster = $1 and trim_at > clock_timestamp()',
      [cluster],
    )
    if (rowCount === 1) return sweeps
    await admin.query('select sweep($1)', [cluster])
  }
}

/** What people can ask about the time since a moment, some days ago. */
async function answersSince(cluster: string, daysAgo: number): Promise<object> {
  const ask = async (text: string): Promise<object[]> =>
    (await admin.query<object>(text, [cluster, daysAgo])).rows
  const since = `date_trunc('hour', clock_timestamp()) - $2 * interval '1 day'`
  return {
    then: await ask(`select * from members_at($1, ${since})`),
    stays: await ask(
      `select member, token, joined_at, left_at, reason, data from stays_between($1, ${since}) order by token`,
    ),
    changes: await ask(`select * from changes where cluster = $1 and at >= ${since} order by revision`),
  }
}

/** Of each kind that matters: gone, still there, with several values, and back again. Returns the ids. */
async function past(cluster: string): Promise<string[]> {
  const ids = await typeMembers(admin, schema, cluster, ['gone', 'stays', 'changed', 'leaves later'])
  for (const data of ['2', '3'])
    await admin.query('update members set data = $1 where id = $2', [data, ids[2]])
  await admin.query('delete from members where id = $1', [ids[0]])
  await admin.query(`insert into members (id, cluster, data) values ($1, $2, 'back')`, [ids[0], cluster])
  return ids
}

describe('promise 4: what would delete the present is refused:', () => {
  test.each([
    ['trim_events(null)'],
    [`trim_events('-1 s')`],
    [`trim_events('1 mon -40 days')`],
    [`set_retention('0', null)`],
    [`set_retention('-1 day', 5)`],
    [`set_retention(null, 0)`],
    [`set_retention('1 day', -1)`],
  ])('%s', async (call) => {
    await expect(admin.query(`select ${call}`)).rejects.toMatchObject({
      code: '22023',
      hint: expect.stringMatching(/for example/i) as unknown,
    })
    expect((await admin.query('select from retention')).rowCount).toBe(0)
  })
})

describe('contract: sweeps trim', () => {
  test('what is older than an age, bit by bit, and every answer about the time that is kept stays the same', async () => {
    const cluster = uniqueName()
    const ids = await past(cluster)
    await admin.query(
      `insert into members (id, cluster, data) select gen_random_uuid(), $1, 'many' from generate_series(1, 4500)`,
      [cluster],
    )
    await admin.query(`delete from members where cluster = $1 and data = 'many'`, [cluster])
    await age(cluster, 20)
    await admin.query('delete from members where id = $1', [ids[3]])
    await age(cluster, 5)
    await admin.query(`update members set data = '4' where id = $1`, [ids[2]])
    await admin.query('select sweep($1)', [cluster])
    const before = await answersSince(cluster, 10)
    const count = async (): Promise<number> => (await eventsOf(admin, schema, cluster)).length
    expect(await count()).toBe(8 + 9_000 + 2)

    await admin.query(`select set_retention('11 days', null)`)
    // 9,008 old ones, 2,000 at a time.
    expect(await sweepAll(cluster)).toBe(5)
    expect(await count()).toBe(4 + 2)
    expect(await answersSince(cluster, 10)).toEqual(before)
    // Of the one that left since then, all goes when that is old as well. What '4' has replaced is still asked about.
    await age(cluster, 10)
    await admin.query('update sweeps set trim_at = clock_timestamp() where cluster = $1', [cluster])
    expect(await sweepAll(cluster)).toBe(1)
    expect((await eventsOf(admin, schema, cluster)).map(({ data }) => data)).toEqual([
      'stays',
      '3',
      'back',
      '4',
    ])
  })

  test('all but so many of the newest changes of each cluster', async () => {
    const [one, two] = [uniqueName(), uniqueName()]
    for (const cluster of [one, two]) {
      await past(cluster)
      await admin.query('select sweep($1)', [cluster])
    }
    await admin.query('select set_retention(null, 4)')
    await sweepAll(one)
    // 1 to 4 joined, 5 and 6 updated the third, 7 left the first, 8 joined: the newest four, and what they build on.
    const revisions = async (cluster: string): Promise<number[]> =>
      (await eventsOf(admin, schema, cluster)).map(({ revision }) => revision)
    expect(await revisions(one)).toEqual([1, 2, 3, 4, 5, 6, 7, 8])
    await admin.query('select set_retention(null, 2)')
    await sweepAll(one)
    expect(await revisions(one)).toEqual([1, 2, 4, 6, 7, 8])
    expect(await revisions(two)).toHaveLength(8)
  })

  test('only where a retention is set, and the short path leaves out a cluster when it is time', async () => {
    const cluster = uniqueName()
    await typeMembers(admin, schema, cluster, ['one'])
    const idle = async (): Promise<number | null> =>
      (await admin.query('select from sweep_idle(array[$1])', [cluster])).rowCount
    await admin.query('select sweep($1)', [cluster])
    expect(await idle()).toBe(1)
    await admin.query(`select set_retention('1 day', null)`)
    expect(await idle()).toBe(0)
    await admin.query('select sweep($1)', [cluster])
    expect(await idle()).toBe(1)
    // As after a crash of the server, which empties the table.
    await admin.query('delete from sweeps where cluster = $1', [cluster])
    expect(await sweepAll(cluster)).toBe(1)
    await admin.query('select set_retention(null, null)')
    expect(await admin.query('select trim_at from sweeps where cluster = $1', [cluster])).toMatchObject({
      rows: [{ trim_at: null }],
    })
  })

  test('also where the retention was set in a transaction that was open when the cluster began to be swept', async () => {
    const cluster = uniqueName()
    const owner = await openAdmin()
    await owner.query('begin')
    await owner.query(`select ${schema}.set_retention('1 day', null)`)
    await past(cluster)
    await admin.query('select sweep($1)', [cluster])
    await age(cluster, 2)
    await owner.query('commit')
    expect((await admin.query('select from sweep_idle(array[$1])', [cluster])).rowCount).toBe(0)
    await admin.query('select sweep($1)', [cluster])
    expect((await eventsOf(admin, schema, cluster)).map(({ revision }) => revision)).toEqual([2, 4, 6, 8])
  })

  test('also where the retention is set while a sweep has not ended, without waiting for it', async () => {
    const cluster = uniqueName()
    await typeMembers(admin, schema, cluster, ['one'])
    await admin.query('select sweep($1)', [cluster])
    const sweeper = await openAdmin()
    await sweeper.query('begin')
    await sweeper.query(`select ${schema}.sweep($1)`, [cluster])
    await admin.query(`set lock_timeout = '10ms'`)
    await admin.query(`select set_retention('1 day', null)`)
    await admin.query('reset lock_timeout')
    await sweeper.query('commit')
    expect((await admin.query('select from sweep_idle(array[$1])', [cluster])).rowCount).toBe(0)
  })

  test('also after a clock that was ahead: neither the next look nor an event from the future stops them', async () => {
    const cluster = uniqueName()
    await past(cluster)
    await age(cluster, 2)
    await admin.query(
      `update events set at = at + interval '1 year' where cluster = $1 and revision in (1, 5, 7)`,
      [cluster],
    )
    await admin.query(`select set_retention('1 day', null)`)
    await admin.query('select sweep($1)', [cluster])
    expect((await eventsOf(admin, schema, cluster)).map(({ revision }) => revision)).toEqual([2, 4, 6, 8])
    await admin.query(
      `update sweeps set trim_at = clock_timestamp() + interval '1 year' where cluster = $1`,
      [cluster],
    )
    expect((await admin.query('select from sweep_idle(array[$1])', [cluster])).rowCount).toBe(0)
    await admin.query('select sweep($1)', [cluster])
    const { rowCount } = await admin.query(
      `select from sweeps where cluster = $1 and trim_at < clock_timestamp() + interval '2 min'`,
      [cluster],
    )
    expect(rowCount).toBe(1)
  })

  test('of changes from the future, all that came before one that is old, page by page', async () => {
    const cluster = uniqueName()
    await admin.query(
      `insert into members (id, cluster, data) select gen_random_uuid(), $1, 'many' from generate_series(1, 2500)`,
      [cluster],
    )
    await admin.query(`delete from members where cluster = $1`, [cluster])
    await typeMembers(admin, schema, cluster, ['one', 'two'])
    await age(cluster, 2)
    await admin.query(
      `update events set at = at + interval '1 year' where cluster = $1 and revision <= 5000 or revision = 5002`,
      [cluster],
    )
    await admin.query(`select set_retention('1 day', null)`)
    await sweepAll(cluster)
    expect((await eventsOf(admin, schema, cluster)).map(({ revision }) => revision)).toEqual([5001, 5002])
  })

  test.each(['by hand', 'by sweeps'])('evictions that have ended, %s', async (how) => {
    const cluster = uniqueName()
    const ids = await typeMembers(admin, schema, cluster, [
      'over',
      'allowed',
      'recent',
      'for ever',
      'registered',
    ])
    for (const [n, id] of ids.entries())
      await admin.query(`select ${n === 4 ? 'drain' : 'evict'}($1, $2, 'why', $3)`, [
        cluster,
        id,
        n === 0 ? '1 s' : null,
      ])
    for (const n of [1, 2, 4]) await admin.query('select allow($1, $2)', [cluster, ids[n]])
    await admin.query(
      `update evictions set at = at - interval '2 days', until = until - interval '2 days',
         allowed_at = allowed_at - interval '2 days' where cluster = $1 and member <> $2`,
      [cluster, ids[2]],
    )
    if (how === 'by hand') await admin.query(`select trim_events('1 day')`)
    else {
      await admin.query(`select set_retention('1 day', null)`)
      await sweepAll(cluster)
    }
    const { rows } = await admin.query<{ member: string }>(
      'select member from evictions where cluster = $1',
      [cluster],
    )
    expect(rows.map(({ member }) => member).toSorted()).toEqual(ids.slice(2).toSorted())
  })

  test('and nobody who writes waits for it, nor does it wait for anybody', async () => {
    const cluster = uniqueName()
    const [id] = await past(cluster)
    await age(cluster, 2)
    await admin.query('select sweep($1)', [cluster])
    await admin.query(`select set_retention('1 day', null)`)
    const [owner, sweeper] = [await openAdmin(), await openAdmin()]
    await owner.query('begin')
    await owner.query(`select from ${schema}.events where cluster = $1 and revision = 1 for update`, [
      cluster,
    ])
    await sweeper.query('begin')
    await sweeper.query(`select ${schema}.sweep($1)`, [cluster])
    // Both transactions are open until the writer is done: if it waits for one of them, it waits for ever. (It may
    // wait a moment for others: NOTIFY takes a lock of the whole server.)
    await sweeper.query('set local idle_in_transaction_session_timeout = 0')
    await until(() => admin.query(`update members set data = 'written meanwhile' where id = $1`, [id]), {
      message: 'the writer does not wait for the sweep',
    })
    await sweeper.query('commit')
    expect((await eventsOf(admin, schema, cluster)).map(({ revision }) => revision)).toEqual([
      1, 2, 4, 6, 8, 9,
    ])
    await owner.query('commit')
  })

  test('while processes run, and a change feed that goes on from what is gone is told', async () => {
    const name = uniqueName()
    const open = () => openCluster({ schema, name, ttlMs: 1_500 })
    const cluster = open()
    const membership = await joined(cluster)
    const since = cluster.snapshot?.cursor ?? ''
    for (let n = 0; n < 10; n++) await membership.setData(String(n))
    await joined(open())
    await admin.query('select set_retention(null, 3)')
    await until(async () => (await eventsOf(admin, schema, name)).length <= 4, {
      message: 'the log is trimmed',
    })
    await expect(cluster.watchChanges({ since }).next()).rejects.toThrow(CompactedError)
    expect((await cluster.getMembers({ fresh: true })).map(({ data }) => data)).toEqual(['9', ''])
  })
})
