/** Sweeps in transactions that are old, that stay open, or that wait for what an application has attached to members. */
import { describe, expect, test } from 'vitest'
import { type AdminClient, freshSchema } from '../support/database.js'
import { expectWholeLog, storyOf, tableOf } from '../support/event-log.js'
import { pidOf, slowCascade, whenBlocked } from '../support/locks.js'
import { openAdmin } from '../support/opened.js'
import { sweepsOf } from '../support/sweeps.js'
import { until } from '../support/until.js'

const schema = await freshSchema()
const members = `${schema}.members`
const sweeps = `${schema}.sweeps`
const { sweep, clusterWith, idsOf, sweepIdle } = sweepsOf(schema)

/** Begins a transaction, and resolves when it is as old as makes a sweep late, with members whose ttl is 1 s. */
async function beginLong(client: AdminClient, isolation = 'read committed'): Promise<void> {
  await client.query(`begin isolation level ${isolation}`)
  await client.query('select 1')
  await until(
    async () =>
      (await client.query(`select where clock_timestamp() > transaction_timestamp() + interval '334 ms'`))
        .rowCount,
    { message: 'the transaction is old' },
  )
}

describe('promises 6 and 7: a sweep in an old transaction moves nothing that others share:', () => {
  test.each([
    ['sweep', 'read committed'],
    ['sweep', 'repeatable read'],
    ['sweep', 'serializable'],
    ['sweep_idle', 'read committed'],
  ])('%s, %s', async (call, isolation) => {
    const [admin, old] = [await openAdmin(), await openAdmin()]
    const { cluster, ids } = await clusterWith(admin, 2)
    await admin.query(
      `update ${members} set ttl = '1 s', session = 'gone', session_role = 10, crash_grace = '500 ms',
         suspected_at = case id when $2 then clock_timestamp() end where cluster = $1`,
      [cluster, ids[0]],
    )
    // Otherwise the short path leaves it to the long one in any case.
    if (call === 'sweep_idle')
      await admin.query(`delete from ${members} where cluster = $1 and id = any ($2)`, [
        cluster,
        ids.slice(0, 2),
      ])
    await admin.query(`update ${sweeps} set pace = '100 ms' where cluster = $1`, [cluster])
    await beginLong(old, isolation)
    const state = async (): Promise<unknown> =>
      (
        await admin.query(
          `select s.*, s.xmin, m.* from ${sweeps} s left join ${members} m using (cluster) where cluster = $1 order by m.id`,
          [cluster],
        )
      ).rows
    const before = await state()
    if (call === 'sweep') {
      expect(await sweep(old, cluster)).toMatchObject({
        removed: 0,
        obstacles: [expect.stringContaining('the transaction is too old')],
      })
    } else expect(await sweepIdle(old, cluster)).toEqual([])
    // Nor does it keep others from sweeping while it stays open.
    expect(
      (await admin.query(`select from ${sweeps} where cluster = $1 for update nowait`, [cluster])).rowCount,
    ).toBe(1)
    await old.query('commit')
    expect(await state()).toEqual(before)
  })

  test('however often a reader does it, the dead go', async () => {
    const [admin, old] = [await openAdmin(), await openAdmin()]
    const { cluster, ids } = await clusterWith(admin, 0, 2)
    await admin.query(`update ${members} set ttl = '1 s' where cluster = $1`, [cluster])
    let isOver = false
    const reading = (async () => {
      while (!isOver) {
        await beginLong(old)
        await sweep(old, cluster)
        await old.query('commit')
      }
    })()
    await until(
      async () => {
        await admin.query(`update ${members} set heartbeat_at = clock_timestamp() where id = $1`, [ids[1]])
        await sweep(admin, cluster)
        return (await idsOf(admin, cluster)).length === 1
      },
      { withinMs: 15_000, message: 'the silent member is gone' },
    )
    isOver = true
    await reading
    expect(await idsOf(admin, cluster)).toEqual([ids[1]])
  })
})

/** As if the last sweep had been so long ago, with the ttl that the members have. */
const TWO_PACES_AGO = `swept_at = clock_timestamp() - interval '1.1 s'`

describe('promise 6: a transaction that has swept and stays open', () => {
  test('is passed by: the others go on where the last sweep was, and say who it is', async () => {
    const [admin, holder] = [await openAdmin(), await openAdmin()]
    const { cluster, ids } = await clusterWith(admin, 2)
    const resumedAt = `select resumed_at::text from ${sweeps} where cluster = $1 order by swept_at desc limit 1`
    await admin.query(
      `update ${sweeps} set ${TWO_PACES_AGO}, outage_at = resumed_at, trimmed_to = 2 where cluster = $1`,
      [cluster],
    )
    const { rows: before } = await admin.query(resumedAt, [cluster])
    await holder.query('begin')
    await holder.query(`select from ${sweeps} where cluster = $1 for update`, [cluster])
    expect(await sweepIdle(admin, cluster)).toEqual([])
    expect(await sweep(admin, cluster)).toMatchObject({ removed: 0, obstacles: null })
    expect((await admin.query(resumedAt, [cluster])).rows).toEqual(before)
    const { removed, obstacles } = await sweep(admin, cluster)
    expect(removed).toBe(2)
    expect(obstacles).toEqual([expect.stringContaining(`process ${await pidOf(holder)} (role `)])
    expect(await idsOf(admin, cluster)).toEqual(ids.slice(2))
    const state = `select outage_at is not null as told, trimmed_to::int from ${sweeps} where cluster = $1 and swept_at > clock_timestamp() - interval '1 s'`
    expect((await admin.query(state, [cluster])).rows).toEqual([{ told: true, trimmed_to: 2 }])
    // One row is enough, however often, and the short path goes on from it.
    await sweep(admin, cluster)
    expect(await sweepIdle(admin, cluster)).toEqual([cluster])
    expect((await admin.query(`select from ${sweeps} where cluster = $1`, [cluster])).rowCount).toBe(2)
    await holder.query('rollback')
    expect((await sweep(admin, cluster)).obstacles).toBeNull()
    expect((await admin.query(`select from ${sweeps} where cluster = $1`, [cluster])).rowCount).toBe(1)
    expect(await sweepIdle(admin, cluster)).toEqual([cluster])
  })

  test('and commits late does not make sweeping resume', async () => {
    const [admin, holder] = [await openAdmin(), await openAdmin()]
    const { cluster } = await clusterWith(admin, 0)
    await admin.query(`update ${sweeps} set resumed_at = resumed_at - interval '1 hour' where cluster = $1`, [
      cluster,
    ])
    await holder.query('begin')
    await sweep(holder, cluster)
    await until(
      async () => {
        await sweep(admin, cluster)
        return (await admin.query(`select from ${sweeps} where cluster = $1`, [cluster])).rowCount === 2
      },
      { message: 'it is passed by' },
    )
    await sweep(admin, cluster)
    await holder.query('commit')
    await sweep(admin, cluster)
    const { rows } = await admin.query(
      `select resumed_at < swept_at - interval '30 min' as goes_on from ${sweeps} where cluster = $1`,
      [cluster],
    )
    expect(rows).toEqual([{ goes_on: true }])
  })

  test('and has begun the watch keeps no registration waiting', async () => {
    const [admin, holder] = [await openAdmin(), await openAdmin()]
    const { cluster } = await clusterWith(admin, 0)
    await admin.query(`delete from ${sweeps} where cluster = $1`, [cluster])
    await holder.query('begin')
    await sweep(holder, cluster)
    const joining = await openAdmin()
    const pid = await pidOf(joining)
    let isOver = false
    const registering = joining
      .query(
        `select token from ${schema}.register($1, array[gen_random_uuid()], '{x}', '{0}', '15 s', null, 's', 0)`,
        [cluster],
      )
      .finally(() => (isOver = true))
    let waits = 0
    while (!isOver)
      waits += (await admin.query('select where cardinality(pg_blocking_pids($1)) > 0', [pid])).rowCount ?? 0
    expect((await registering).rowCount).toBe(1)
    expect(waits).toBe(0)
    await holder.query('rollback')
  })
})

test('promise 11: of two rows that began at the same moment, sweeps leave one, also where there is nothing to do', async () => {
  const admin = await openAdmin()
  const { cluster } = await clusterWith(admin, 0)
  await sweep(admin, cluster)
  expect(await sweepIdle(admin, cluster)).toEqual([cluster])
  await admin.query(
    `insert into ${sweeps} select cluster, swept_at - interval '1 ms', resumed_at, turn, pace, server_started_at
     from ${sweeps} where cluster = $1`,
    [cluster],
  )
  expect(await sweepIdle(admin, cluster)).toEqual([])
  await sweep(admin, cluster)
  expect((await admin.query(`select from ${sweeps} where cluster = $1`, [cluster])).rowCount).toBe(1)
  expect(await sweepIdle(admin, cluster)).toEqual([cluster])
})

describe('promise 11: while a removal waits in a cascade, others change the cluster:', () => {
  const register = (admin: AdminClient, cluster: string): Promise<unknown> =>
    admin.query(
      `select ${schema}.register($1, array[gen_random_uuid()], '{x}', '{0}', '15 s', null, 's', 0)`,
      [cluster],
    )

  test('also where the same sweep removes others, for another reason', async () => {
    const [admin, sweeper, holder] = [await openAdmin(), await openAdmin(), await openAdmin()]
    const { cluster, ids } = await clusterWith(admin, 2)
    await admin.query(
      `update ${members} set ttl = '1 day', heartbeat_at = clock_timestamp() - interval '1 min', session = 'gone',
         session_role = 10, crash_grace = '1 s', suspected_at = clock_timestamp() - interval '10 s' where id = $1`,
      [ids[0]],
    )
    const { table, release } = await slowCascade(admin, holder, schema)
    await admin.query(`insert into ${table} values ($1)`, [ids[1]])
    const pid = await pidOf(sweeper)
    const sweeping = sweep(sweeper, cluster)
    await whenBlocked(admin, pid)
    await register(admin, cluster)
    await release()
    expect((await sweeping).removed).toBe(2)
    const story = await storyOf(admin, schema, cluster)
    expect(story.slice(-2).toSorted()).toEqual(['left crashed', 'left expired'])
    expect(story.slice(3, 4)).toEqual(['joined registered'])
    await admin.query(`drop table ${table}`)
    await expectWholeLog(admin, schema, cluster)
  })

  test('also where another member cannot be removed, so that each is tried alone', async () => {
    const [admin, sweeper, holder] = [await openAdmin(), await openAdmin(), await openAdmin()]
    const { cluster, ids } = await clusterWith(admin, 12)
    const { table, release } = await slowCascade(admin, holder, schema)
    const refusing = `${table}_refuses`
    await admin.query(`create table ${refusing} (member uuid references ${members})`)
    await admin.query(`insert into ${refusing} values ($1)`, [ids[0]])
    await admin.query(`insert into ${table} values ($1)`, [ids[1]])
    const pid = await pidOf(sweeper)
    const sweeping = sweep(sweeper, cluster)
    // The refusal comes at the end of the statement, so all that cascades is met first.
    await whenBlocked(admin, pid)
    await register(admin, cluster)
    await release()
    const { removed, obstacles } = await sweeping
    expect(removed).toBe(11)
    expect(obstacles).toEqual([expect.stringContaining(ids[0] ?? '')])
    expect((await storyOf(admin, schema, cluster)).slice(-11)).toEqual(Array(11).fill('left expired'))
    await admin.query(`drop table ${refusing}; drop table ${table}`)
    await expectWholeLog(admin, schema, cluster)
  })
})

test('contract: who leaves although something refused at first is told the position before all that has changed', async () => {
  const admin = await openAdmin()
  const { cluster, ids } = await clusterWith(admin, 0, 3)
  const { members: present } = await tableOf(admin, schema, cluster)
  const table = `${schema}.briefly_held`
  await admin.query(`create table ${table} (member uuid references ${members} on delete cascade)`)
  await admin.query(`insert into ${table} values ($1)`, [ids[1]])
  const { rows: stamps } = await admin.query<{ stamp: string }>(
    `select stamp from ${schema}.clusters where name = $1`,
    [cluster],
  )
  // Refuses the first time, and not the second.
  await admin.query(`
    create sequence ${table}_tries;
    create function ${table}() returns trigger language plpgsql as $$
      begin if nextval('${table}_tries') = 1 then raise 'not now'; end if; return old; end $$;
    create trigger briefly before delete on ${table} for each row execute function ${table}()`)
  const { rows } = await admin.query<{ gone: string[] | null; previous_stamp: string | null }>(
    `select gone, previous_stamp from ${schema}.deregister($1, $2, $3)`,
    [cluster, ids, ids.map((id) => present.find((member) => member.id === id)?.token)],
  )
  expect(rows[0]?.gone).toHaveLength(3)
  expect(rows[0]?.previous_stamp).toBe(stamps[0]?.stamp)
  await admin.query(`drop table ${table}; drop sequence ${table}_tries`)
})

test('promise 11: heartbeats that were kept aside go with their registration, also where nobody sweeps', async () => {
  const admin = await openAdmin()
  const { cluster, ids } = await clusterWith(admin, 0)
  const held = `${schema}.held_heartbeats`
  await admin.query(
    `insert into ${held} (cluster, member, token, at) select cluster, id, token, clock_timestamp() from ${members} where cluster = $1`,
    [cluster],
  )
  await admin.query(`select ${schema}.deregister($1, $2, '{1}')`, [cluster, ids])
  expect((await admin.query(`select from ${held} where cluster = $1`, [cluster])).rowCount).toBe(0)
})
