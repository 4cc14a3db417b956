/** What a definer function does must not depend on anything that its caller controls. */
import { randomUUID } from 'node:crypto'
import type { PostgresCluster } from 'pg-membership'
import { describe, expect, test } from 'vitest'
import { type AdminClient, uniqueName } from './support/database.js'
import { silence, storyOf, tableOf, typeMembers } from './support/event-log.js'
import { pidOf } from './support/locks.js'
import { joined, openAdmin, openCluster } from './support/opened.js'
import { type Role, startRoles } from './support/roles.js'
import { until } from './support/until.js'

const { schema, nameOf, urlOf, as } = await startRoles()

/** A cluster with a member that is dead for whoever looks, and one that is alive. */
async function deadAndAlive(admin: AdminClient): Promise<{ cluster: string; dead: string; alive: string }> {
  const cluster = uniqueName()
  const [dead = '', alive = ''] = await typeMembers(admin, schema, cluster, ['dead', 'alive'])
  await admin.query(`select ${schema}.sweep($1)`, [cluster])
  await silence(admin, schema, cluster, [dead])
  return { cluster, dead, alive }
}

describe('promise 15: no function executes what its caller has queued with the rights of the owner', () => {
  // Before PostgreSQL 18 a deferred trigger runs as whoever makes it immediate.
  test.each<[Role, string, string]>([
    ['reader', 'sweep', `select sweep($1)`],
    ['reader', 'sweep_as_owner', `select sweep_as_owner($1)`],
    ['member', 'deregister', `select deregister($1, array[$2::uuid], array[$3::bigint])`],
    ['member', 'deregister_as_owner', `select deregister_as_owner($1, array[$2::uuid], array[$3::bigint])`],
    [
      'member',
      'register',
      `select register($1, array[$2::uuid], '{x}', array[$3::bigint], '15s', null, 's', 0)`,
    ],
  ])('%s, by %s', async (role, _function, text) => {
    const admin = await openAdmin()
    const { cluster, dead } = await deadAndAlive(admin)
    const { members } = await tableOf(admin, schema, cluster)
    const token = members.find(({ id }) => id === dead)?.token
    await using caller = await as(role)
    await caller.query(`
      create temp table ran (as_role text);
      create temp table mine (id integer);
      create function pg_temp.mark() returns trigger language plpgsql
        as 'begin insert into pg_temp.ran values (current_user); return null; end';
      create constraint trigger mark after insert on mine deferrable initially deferred
        for each row execute function pg_temp.mark()`)
    const values = [cluster, dead, token].slice(0, text.includes('$2') ? 3 : 1)
    await caller.query('begin')
    await caller.query('insert into mine values (1)')
    await caller.query(text, values)
    await caller.query('commit')
    const { rows } = await caller.query<{ as_role: string }>('select * from ran')
    expect(rows).toEqual([{ as_role: nameOf[role] }])
    expect(await storyOf(admin, schema, cluster)).toHaveLength(
      role === 'member' && text.includes('register(') && !text.includes('deregister') ? 4 : 3,
    )
  })
})

describe('promises 7 and 15: a sweep with an old view of the database evicts nobody who was heard since', () => {
  test.each(['repeatable read', 'serializable'])('%s', async (isolation) => {
    const [admin, holder] = [await openAdmin(), await openAdmin()]
    const cluster = uniqueName()
    const [kept = '', dead = ''] = await typeMembers(admin, schema, cluster, ['kept', 'dead'])
    await admin.query(`update ${schema}.members set ttl = '10 min' where cluster = $1`, [cluster])
    await admin.query(`select ${schema}.sweep($1)`, [cluster])
    await silence(admin, schema, cluster, [dead])
    await using reader = await as('reader')
    // Long enough for the view to be taken before.
    const { rows } = await admin.query<{ token: string; ends: string }>(
      `update ${schema}.members set heartbeat_at = clock_timestamp() - ttl + interval '1500 ms' where id = $1
       returning token, (heartbeat_at + ttl)::text as ends`,
      [kept],
    )
    const [row] = rows
    await reader.query(`begin isolation level ${isolation}`)
    await reader.query(`select count(*) from members`)
    // Alive when the view was taken, and heard since: as its row was held, its heartbeat was kept aside.
    await holder.query('begin')
    await holder.query(`select from ${schema}.members where id = $1 for update`, [kept])
    await admin.query(`select ${schema}.heartbeat($1, array[$2::uuid], array[$3::bigint], 's', 0)`, [
      cluster,
      kept,
      row?.token,
    ])
    await holder.query('rollback')
    await until(
      async () => (await admin.query('select where clock_timestamp() > $1', [row?.ends])).rowCount === 1,
      { message: 'the ttl is over' },
    )
    await reader.query('select sweep($1)', [cluster])
    await reader.query('commit')
    // Who had been dead before the view was taken goes.
    expect((await tableOf(admin, schema, cluster)).members.map(({ id }) => id)).toEqual([kept])
  })
})

test('promise 6: the name of a dead process on a connection of another role keeps nobody alive', async () => {
  const admin = await openAdmin()
  const [cluster, session] = [uniqueName(), uniqueName('session')]
  const dead = randomUUID()
  const alive = openCluster({ schema, name: cluster, connection: urlOf('member'), ttlMs: 60_000 })
  await joined(alive)
  const dying = await as('member')
  await dying.query(`set application_name = '${session}'`)
  await dying.query(
    `select register($1, array[$2::uuid], '{x}', '{0}', '60s', '50ms', $3, pg_backend_pid())`,
    [cluster, dead, session],
  )
  const { rows } = await admin.query(`select session from ${schema}.members where id = $1`, [dead])
  expect(rows).toEqual([{ session }])
  await using stranger = await as('nobody')
  await stranger.query(`set application_name = '${session}'`)
  await dying.end()
  await until(async () => (await storyOf(admin, schema, cluster)).includes('left crashed'), {
    message: 'the dead is found',
  })
})

test('promises 7 and 15: the name of a process on its own connections keeps it alive, whatever role its readers have', async () => {
  const admin = await openAdmin()
  const [cluster, session] = [uniqueName(), uniqueName('session')]
  const id = randomUUID()
  await using living = await as('member')
  await living.query(`set application_name = '${session}'`)
  await living.query(
    `select register($1, array[$2::uuid], '{x}', '{0}', '60s', '50ms', $3, pg_backend_pid())`,
    [cluster, id, session],
  )
  await using reader = await as('reader')
  for (let n = 0; n < 3; n += 1) await reader.query('select sweep($1)', [cluster])
  const { rows } = await admin.query(`select suspected_at from ${schema}.members where id = $1`, [id])
  expect(rows).toEqual([{ suspected_at: null }])
})

describe('promise 11: a transaction that has swept and stays open by accident', () => {
  test('is ended by the server, so that the cluster goes on', async () => {
    const admin = await openAdmin()
    const { cluster, alive } = await deadAndAlive(admin)
    await using reader = await as('reader')
    await reader.query('begin')
    await reader.query('select sweep($1)', [cluster])
    const startedMs = performance.now()
    await until(
      async () => {
        await admin.query(`update ${schema}.members set data = 'changed' where id = $1`, [alive])
        return true
      },
      { withinMs: 9_000, message: 'a change of the cluster' },
    )
    expect(performance.now() - startedMs).toBeGreaterThan(3_000)
    await expect(reader.query('select 1')).rejects.toThrow()
  })

  test.each(['0', '1min', '3s', '2500ms'])(
    'and the bound of %s that the session has is kept where it is shorter, and afterwards',
    async (bound) => {
      const admin = await openAdmin()
      const { cluster } = await deadAndAlive(admin)
      await using reader = await as('reader')
      await reader.query(`set idle_in_transaction_session_timeout = '${bound}'`)
      const show = async (): Promise<unknown> =>
        (
          await reader.query<{ t: string }>(
            `select current_setting('idle_in_transaction_session_timeout') as t`,
          )
        ).rows[0]?.t
      await reader.query('begin')
      await reader.query('select sweep($1)', [cluster])
      expect(await show()).toBe(bound === '3s' || bound === '2500ms' ? bound : '5s')
      await reader.query('rollback')
      expect(await show()).toBe(bound)
    },
  )
})

describe('promises 6 and 11: a transaction that has swept and stays open on purpose is named to whoever sweeps', () => {
  test.each([
    ['as it is', ['begin', 'sweep', 'set local idle_in_transaction_session_timeout = 0']],
    ['behind a savepoint', ['begin', 'savepoint one', 'sweep', 'release savepoint one']],
  ])('%s, and the others are swept', async (_how, statements) => {
    const admin = await openAdmin()
    const { cluster, dead, alive } = await deadAndAlive(admin)
    await using reader = await as('reader')
    for (const text of statements) {
      await (text === 'sweep' ? reader.query('select sweep($1)', [cluster]) : reader.query(text))
    }
    const pid = await pidOf(reader)
    await using other = await as('reader')
    const obstacles = await until(
      async () => {
        await admin.query(`set lock_timeout = '10ms'`)
        // Nobody but the reader's transaction knows that one has gone; the other dies meanwhile.
        await admin.query(
          `update ${schema}.members set heartbeat_at = clock_timestamp() - interval '1 day' where id = $1`,
          [alive],
        )
        await admin.query('reset lock_timeout')
        await admin.query(
          `update ${schema}.sweeps set resumed_at = clock_timestamp() - interval '1 day' where ctid = any (array(
             select ctid from ${schema}.sweeps where cluster = $1 for update skip locked))`,
          [cluster],
        )
        const { rows } = await other.query<{ obstacles: string[] | null }>(
          'select obstacles from sweep($1)',
          [cluster],
        )
        return rows[0]?.obstacles?.find((text) => text.includes('has swept'))
      },
      { message: 'they are told' },
    )
    expect(obstacles).toContain(`process ${pid} (role ${nameOf.reader})`)
    await reader.query('rollback')
    await until(
      async () => {
        await silence(admin, schema, cluster, [])
        await other.query('select sweep($1)', [cluster])
        return (await storyOf(admin, schema, cluster)).length === 4
      },
      { message: 'both are gone' },
    )
    expect((await tableOf(admin, schema, cluster)).members.map(({ id }) => id)).not.toContain(dead)
  })
})

describe('promises 1 and 2: row level security that a host switches on does not matter', () => {
  test.each(['enable', 'force'])('%s', async (how) => {
    const admin = await openAdmin()
    const tables = ['clusters', 'members', 'events', 'sweeps', 'held_heartbeats', 'evictions', 'retention']
    const alter = async (change: string): Promise<void> => {
      for (const table of tables)
        await admin.query(`alter table ${schema}.${table} ${change} row level security`)
    }
    await alter('enable')
    if (how === 'force') await alter('force')
    try {
      const name = uniqueName()
      const open = (role: Role): PostgresCluster => openCluster({ schema, name, connection: urlOf(role) })
      const [cluster, observer] = [open('member'), open('reader')]
      const membership = await joined(cluster, { data: 'one' })
      expect(await observer.getMembers({ fresh: true })).toMatchObject([{ id: membership.id, data: 'one' }])
      await membership.setData('two')
      expect(await observer.getMembers({ fresh: true })).toMatchObject([{ data: 'two' }])
      await silence(admin, schema, name, [membership.id])
      await using reader = await as('reader')
      await reader.query('select sweep($1)', [name])
      await membership.deregister()
      expect(await observer.getMembers({ fresh: true })).toEqual([])
    } finally {
      await alter('disable')
      await alter('no force')
    }
  })
})
