import { expect, test } from 'vitest'
import { databaseUrl, freshSchema } from '../support/database.js'
import { allBeat, expectSilence, startFleet, TTL_MS, watchOver } from '../support/fleet.js'
import { openAdmin } from '../support/opened.js'
import { size } from '../support/size.js'
import { until } from '../support/until.js'
import { startWorker, type Worker } from '../support/worker.js'

const schema = await freshSchema()
const fleet = await startFleet(schema, Array.from({ length: 5 }, databaseUrl))
const [first, second] = fleet.workers
if (first === undefined || second === undefined) throw new Error('a fleet has members')

const HOUR_MS = 3_600_000

test('promise 7: clocks that jump by an hour, forwards and back, and do not agree, end no lease', async () => {
  const admin = await openAdmin()
  const watch = await watchOver(fleet, admin)
  for (const hours of [1, 0, -1, 0]) {
    await Promise.all([first.ask('shiftDate', hours * HOUR_MS), second.ask('shiftDate', -hours * HOUR_MS)])
    await allBeat(fleet, admin)
  }
  await watch.expectUnharmed(admin)
})

/** Longer than the grace, which is 400 ms, and as long as a lease can take. */
const BLOCKED_MS = TTL_MS / 2

test('promise 7: a process that is busy with itself for less than its ttl stays, and so does its lease', async () => {
  const admin = await openAdmin()
  const watch = await watchOver(fleet, admin)
  expect(await first.ask('block', BLOCKED_MS)).toEqual([true])
  await watch.expectUnharmed(admin)
})

test('promise 7: a process that is busy with itself right after it has found its way back to the database stays', async () => {
  const admin = await openAdmin()
  const watch = await watchOver(fleet, admin)
  const connections = `
    select a.pid, a.query ilike 'listen%' as listens from pg_stat_activity a
    join ${schema}.members m on m.session = a.application_name where m.id = $1`
  const lost = await admin.query<{ pid: number }>(connections, [fleet.ids[0]])
  await admin.query('select pg_terminate_backend(pid) from unnest($1::int[]) pid', [
    lost.rows.map(({ pid }) => pid),
  ])
  await until(
    async () => {
      const { rows } = await admin.query<{ pid: number; listens: boolean }>(connections, [fleet.ids[0]])
      return (
        rows.some(({ listens }) => listens) &&
        rows.every(({ pid }) => !lost.rows.some((old) => old.pid === pid))
      )
    },
    { message: 'its connections are back' },
  )
  expect(await first.ask('block', BLOCKED_MS)).toEqual([true])
  await watch.expectUnharmed(admin)
})

const GUESTS = size(10, 3)

test(`promise 7: a storm of registrations from ${GUESTS} processes, 50 from each, ends no lease`, async () => {
  const admin = await openAdmin()
  const watch = await watchOver(fleet, admin)
  const guests: Worker[] = []
  // Not all at once: starting is what costs a machine most.
  while (guests.length < GUESTS) guests.push(...(await Promise.all([startWorker(), startWorker()])))
  const joining = guests.map(async (guest) => {
    await guest.ask('open', { connection: databaseUrl(), schema, name: fleet.name })
    await Promise.all(Array.from({ length: 50 }, () => guest.ask('join', {})))
  })
  await Promise.all(joining)
  expect(guests.flatMap((guest) => guest.toldOf('lost'))).toEqual([])
  await Promise.all(guests.map((guest) => guest.ask('close')))
  expectSilence(guests)
  await watch.expectUnharmed(admin, {
    changes: [
      ...Array.from({ length: 50 * guests.length }, () => 'joined registered'),
      ...Array.from({ length: 50 * guests.length }, () => 'left deregistered'),
    ],
  })
}, 120_000)
