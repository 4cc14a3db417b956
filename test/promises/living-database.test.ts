import { migrate } from 'pg-membership'
import { afterAll, expect, test } from 'vitest'
import type { AdminClient } from '../support/database.js'
import { typeMembers } from '../support/event-log.js'
import { allBeat, elapsed, startFleet, TTL_MS, watchOver } from '../support/fleet.js'
import { joined, openAdmin, openCluster } from '../support/opened.js'
import { startPostgres } from '../support/postgres-server.js'

const schema = 'pgmembership'
const server = await startPostgres({ fsync: false, settings: { autovacuum: 'off' } })
afterAll(() => server[Symbol.asyncDispose]())
await migrate({ connection: server.url })
const fleet = await startFleet(
  schema,
  Array.from({ length: 5 }, () => server.url),
)

async function admin(): Promise<AdminClient> {
  return openAdmin(server.url)
}

/** Somebody types it, and thinks for longer than the ttl. Those who wait must not silence their processes. */
async function held(statement: string, meanwhile: readonly Promise<unknown>[] = []): Promise<void> {
  const somebody = await admin()
  await somebody.query('begin')
  await somebody.query(statement)
  const waiting = [
    ...meanwhile,
    ...fleet.workers.map((worker) => worker.ask('setData', { n: 0, data: statement })),
  ]
  await elapsed(performance.now(), 1.3 * TTL_MS)
  // A sweep comes before the next heartbeats do.
  await somebody.query(`commit; select ${schema}.sweep('${fleet.name}')`)
  await Promise.all(waiting)
}

const OWN_CHANGES = fleet.workers.map(() => 'updated data')

test.each([
  ['the row of the cluster', `select from ${schema}.clusters where name = '${fleet.name}' for update`],
  ['the rows of members', `select from ${schema}.members where cluster = '${fleet.name}' for update`],
  [
    'application rows that refer to members, and on their keys',
    `delete from work; insert into work select id from ${schema}.members where cluster = '${fleet.name}'`,
  ],
])('promise 7: a lock on %s, held for longer than the ttl, ends no lease', async (_what, statement) => {
  const looking = await admin()
  await looking.query(
    `create table if not exists work (member uuid primary key references ${schema}.members on delete cascade)`,
  )
  await looking.query('insert into work select unnest($1::uuid[]) on conflict do nothing', [fleet.ids])
  const watch = await watchOver(fleet, looking)
  await held(statement)
  await watch.expectUnharmed(looking, { changes: OWN_CHANGES })
})

test('promise 7: a lock that keeps all heartbeats from the table, held for longer than the ttl, costs nobody its registration', async () => {
  const looking = await admin()
  const watch = await watchOver(fleet, looking)
  // As a migration does that adds a foreign key.
  await held(`lock table ${schema}.members in share row exclusive mode`)
  await watch.expectUnharmed(looking, { unreachableMs: Infinity, changes: OWN_CHANGES })
})

test.each(['clusters', 'events', 'held_heartbeats', 'members', 'sweeps'])(
  'promise 7: while a lock on the whole table of %s may hold up heartbeats, nobody can sweep',
  async (table) => {
    const [looking, somebody] = [await admin(), await admin()]
    const watch = await watchOver(fleet, looking)
    await somebody.query('begin')
    await somebody.query(`lock table ${schema}.${table} in access exclusive mode`)
    const sweep = looking.query(`select ${schema}.sweep($1)`, [fleet.name])
    const outcome = await sweep.then(
      () => 'swept',
      (error: unknown) => (error as { code: string }).code,
    )
    expect(outcome).toBe('55P03') // lock_not_available
    await somebody.query('commit')
    await watch.expectUnharmed(looking)
  },
)

test.each(['repeatable read', 'serializable'])(
  'promise 7: a database whose transactions are %s by default ends no lease, and all works',
  async (isolation) => {
    const looking = await admin()
    const watch = await watchOver(fleet, looking)
    await looking.query(`alter database postgres set default_transaction_isolation = '${isolation}'`)
    await looking.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'pg-membership %'`,
    )
    const application = await admin()
    expect((await application.query('show transaction_isolation')).rows).toEqual([
      { transaction_isolation: isolation },
    ])
    await migrate({ connection: server.url })
    const guest = openCluster({ connection: server.url, name: fleet.name })
    const membership = await joined(guest)
    await Promise.all([
      membership.setData('guest'),
      ...fleet.workers.map((worker) => worker.ask('setData', { n: 0, data: isolation })),
    ])
    await application.query('begin')
    await membership.fence(application)
    await allBeat(fleet, looking)
    await application.query('commit')
    await guest.close()
    await watch.expectUnharmed(looking, {
      changes: [...OWN_CHANGES, 'joined registered', 'updated data', 'left deregistered'],
    })
    await looking.query('alter database postgres reset default_transaction_isolation')
  },
)

test('promises 5 and 7: a snapshot that somebody holds open makes the table grow, and heals: nobody is harmed', async () => {
  const [looking, somebody] = [await admin(), await admin()]
  await typeMembers(
    looking,
    schema,
    'crowd',
    Array.from({ length: 20 }, () => 'd'.repeat(100)),
  )
  const beat = async (times: number): Promise<void> => {
    for (let n = 0; n < times; n++) {
      await looking.query(
        `select ${schema}.heartbeat('crowd', array_agg(id), array_agg(token), 'nobody', 0)
         from ${schema}.members where cluster = 'crowd'`,
      )
    }
  }
  const sizeAfterSnapshot = async (): Promise<number> => {
    await somebody.query('begin isolation level repeatable read')
    await somebody.query(`select from ${schema}.members`)
    await beat(100)
    await somebody.query('commit')
    await looking.query(`vacuum ${schema}.members`)
    const { rows } = await looking.query<{ size: string }>(
      `select pg_total_relation_size('${schema}.members') as size`,
    )
    return Number(rows[0]?.size)
  }
  const watch = await watchOver(fleet, looking)
  await beat(100)
  const once = await sizeAfterSnapshot()
  await beat(100)
  // What the first left behind is used again: else it would be twice as large.
  expect(await sizeAfterSnapshot()).toBeLessThan(1.6 * once)
  await beat(100)
  await watch.expectUnharmed(looking)
})
