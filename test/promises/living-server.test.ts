import { migrate } from 'pg-membership'
import { afterAll, expect, test } from 'vitest'
import type { AdminClient } from '../support/database.js'
import { tableOf } from '../support/event-log.js'
import { allBeat, elapsed, startFleet, sweptAfter, TTL_MS, watchOver } from '../support/fleet.js'
import { openAdmin } from '../support/opened.js'
import { startPostgres, type StopMode } from '../support/postgres-server.js'
import { startProxy } from '../support/tcp-proxy.js'
import { until } from '../support/until.js'

const schema = 'pgmembership'
const server = await startPostgres({ fsync: false, settings: { max_connections: '40' } })
const proxy = await startProxy(server.url)
afterAll(async () => {
  await proxy[Symbol.asyncDispose]()
  await server[Symbol.asyncDispose]()
})
await migrate({ connection: server.url })
const through = proxy.url(server.url)
const fleet = await startFleet(schema, [server.url, server.url, server.url, through, through])

async function admin(): Promise<AdminClient> {
  return openAdmin(server.url)
}

test.each<StopMode>(['fast', 'immediate', 'kill'])(
  'promise 7: a server that is stopped (%s) and started again within the ttl ends no lease',
  async (mode) => {
    const watch = await watchOver(fleet, await admin())
    const stoppedMs = performance.now()
    await server.stop(mode)
    await elapsed(stoppedMs, 600)
    await server.start()
    await watch.expectUnharmed(await admin(), { unreachableMs: performance.now() - stoppedMs })
  },
)

test.each<StopMode>(['fast', 'kill'])(
  'promise 7: a server that was stopped (%s) for longer than the ttl finds all as they were, also who is last to reach it',
  async (mode) => {
    const before = await admin()
    const watch = await watchOver(fleet, before)
    const { members } = await tableOf(before, schema, fleet.name)
    const stoppedMs = performance.now()
    await Promise.all([proxy.cut(), server.stop(mode)])
    await elapsed(stoppedMs, 1.5 * TTL_MS)
    expect(await Promise.all(fleet.workers.map((worker) => worker.ask('lease', 0)))).toEqual(
      members.map(() => undefined),
    )
    await server.start()
    const again = await admin()
    // Those who are back sweep for a while before the others reach the database.
    await sweptAfter(fleet, again, TTL_MS / 4)
    expect((await tableOf(again, schema, fleet.name)).members).toEqual(members)
    await proxy.restore()
    await watch.expectUnharmed(again, { unreachableMs: Infinity })
  },
)

test('promise 7: the crash of one backend, which restarts the server under its old start time, ends no lease', async () => {
  const looking = await admin()
  const watch = await watchOver(fleet, looking)
  const started = 'select pg_postmaster_start_time()::text as at'
  const { rows } = await looking.query(started)
  const [victim = 0] = await backends(looking, QUERIES)
  const disconnected = new Promise((resolve) => looking.once('end', resolve))
  const killedMs = performance.now()
  process.kill(victim, 'SIGKILL')
  await disconnected
  const again = await until(admin, { message: 'the server is back' })
  const unreachableMs = performance.now() - killedMs
  expect((await again.query(started)).rows).toEqual(rows)
  await watch.expectUnharmed(again, { unreachableMs })
})

const LISTENERS = `a.query ilike 'listen%'`
const QUERIES = `a.query not ilike 'listen%'`

/** Process ids of the fleet's backends, those for which the condition holds. */
async function backends(looking: AdminClient, condition: string): Promise<number[]> {
  const { rows } = await looking.query<{ pid: number }>(
    `select a.pid from pg_stat_activity a join ${schema}.members m on m.session = a.application_name
     where m.cluster = $1 and ${condition}`,
    [fleet.name],
  )
  return rows.map(({ pid }) => pid)
}

async function allListen(looking: AdminClient): Promise<void> {
  await until(async () => (await backends(looking, LISTENERS)).length === fleet.workers.length, {
    message: 'all listen',
  })
}

const FIRST = `m.id = '${fleet.ids[0] ?? ''}'`

test.each([
  ['every listener', LISTENERS],
  ['every connection for queries', QUERIES],
  ['every connection', 'true'],
  ['every connection of one member', FIRST],
])('promise 7: losing %s, again and again, ends no lease', async (_what, condition) => {
  const looking = await admin()
  const watch = await watchOver(fleet, looking)
  for (let n = 0; n < 3; n++) {
    await allListen(looking)
    const { rowCount } = await looking.query('select pg_terminate_backend(pid) from unnest($1::int[]) pid', [
      await backends(looking, condition),
    ])
    expect(rowCount).toBeGreaterThan(0)
    await allBeat(fleet, looking)
  }
  await watch.expectUnharmed(looking)
})

test('promise 7: while the server has no connection to give, who holds one goes on, and who lost one comes back', async () => {
  const looking = await admin()
  const watch = await watchOver(fleet, looking)
  await allListen(looking)
  const crowd: AdminClient[] = []
  const crowdIn = async (): Promise<void> => {
    for (;;) crowd.push(await openAdmin(server.url))
  }
  await expect(crowdIn()).rejects.toMatchObject({ code: '53300' })
  const lostMs = performance.now()
  // It and the crowd are after the same places.
  await until(
    async () => {
      const lost = await backends(looking, `${FIRST} and ${QUERIES}`)
      await looking.query('select pg_terminate_backend(pid) from unnest($1::int[]) pid', [lost])
      await expect(crowdIn()).rejects.toMatchObject({ code: '53300' })
      return (await backends(looking, `${FIRST} and ${QUERIES}`)).length === 0
    },
    { message: 'one member has lost its places' },
  )
  await elapsed(performance.now(), 600)
  await Promise.all(crowd.map((client) => client.end()))
  await watch.expectUnharmed(looking, { unreachableMs: performance.now() - lostMs })
})
