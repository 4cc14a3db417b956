import { afterAll, expect, test } from 'vitest'
import { type AdminClient, uniqueName } from '../support/database.js'
import { eventsOf, expectWholeLog, storyOf, tableOf, typeMembers } from '../support/event-log.js'
import {
  expectConverged,
  type LivingMember,
  openPair,
  reportsOf,
  startMember,
  startOrigin,
  startReader,
  sweptFor,
} from '../support/failover.js'
import { openAdmin, openProxy } from '../support/opened.js'
import { size } from '../support/size.js'
import { until } from '../support/until.js'
import type { Worker } from '../support/worker.js'

const TTL_MS = 3_000
const HEARTBEAT_MS = 300
const DATA = ['one', 'two', 'three', 'four', 'five'].slice(0, size(5, 3))
/** The others have another connection. */
const HERE = size(3, 2)
const schema = 'pgmembership'
const origin = await startOrigin()
afterAll(() => origin[Symbol.asyncDispose]())

interface Crew {
  readonly name: string
  readonly members: readonly LivingMember[]
  readonly reader: Worker
  readonly workers: readonly Worker[]
}

/** Members and a reader, a process each, all of which see all; some of them over another connection. */
async function openCrew(admin: AdminClient, connection: string, another = connection): Promise<Crew> {
  const name = uniqueName()
  const options = { connection, name, ttlMs: TTL_MS, heartbeatMs: HEARTBEAT_MS }
  const [reader, ...members] = await Promise.all([
    startReader(options),
    ...DATA.slice(0, HERE).map((data) => startMember(options, data)),
    ...DATA.slice(HERE).map((data) => startMember({ ...options, connection: another }, data)),
  ])
  const workers = [reader, ...members.map(({ worker }) => worker)]
  await expectConverged(admin, name, workers)
  return { name, members, reader, workers }
}

/** What any of them has watched since it saw all. */
function watchedBy(workers: readonly Worker[]): string[] {
  const watched = workers.flatMap((worker) => {
    const sets = worker.toldOf('watched').map(({ tokens }) => tokens)
    return sets.slice(sets.findIndex((tokens) => tokens.length === DATA.length)).map(String)
  })
  return [...new Set(watched)]
}

async function timelineOf(admin: AdminClient): Promise<string | undefined> {
  const { rows } = await admin.query<{ timeline: string }>(
    `select left(pg_walfile_name(pg_current_wal_lsn()), 8) as timeline`,
  )
  return rows[0]?.timeline
}

/** Microseconds of the server's clock. */
async function timeAt(admin: AdminClient, moment: string): Promise<bigint> {
  const { rows } = await admin.query<{ at: string }>(
    `select (extract(epoch from ${moment}) * 1000000)::bigint::text as at`,
  )
  return BigInt(rows[0]?.at ?? 0)
}

test('promise 7: a failover that is quicker than the ttl ends no lease, and no process sees anything of it', async () => {
  const { primary, standby } = await openPair(origin)
  const proxy = await openProxy(primary.url)
  const before = await openAdmin(primary.url)
  const { name, members, workers } = await openCrew(before, proxy.throughIt)
  const table = await tableOf(before, schema, name)
  const timeline = await timelineOf(before)

  const cutMs = performance.now()
  await proxy.cut()
  await standby.caughtUp()
  await primary.stop('fast')
  await standby.promote()
  proxy.switchTo(standby.port)
  await proxy.restore()
  const outageMs = performance.now() - cutMs

  const after = await openAdmin(standby.url)
  expect(await timelineOf(after)).not.toBe(timeline)
  await sweptFor(after, name, 1.2 * TTL_MS)
  await expectConverged(after, name, workers)
  expect(await tableOf(after, schema, name)).toEqual(table)
  expect(await storyOf(after, schema, name)).toEqual(DATA.map(() => 'joined registered'))
  expect(watchedBy(workers)).toHaveLength(1)
  for (const { worker, token } of members) expect(await worker.ask('lease', 0)).toBe(token)
  for (const worker of workers) expect(reportsOf(worker)).toBe(0)
  // On a machine so slow that the failover took most of the ttl, leases may have ended; 500 ms are for
  // their margin, and for the way back.
  if (outageMs < TTL_MS - HEARTBEAT_MS - 500) {
    expect(members.flatMap(({ worker }) => worker.toldOf('lost'))).toEqual([])
  }
}, 60_000)

test('promises 6 and 7: after a failover that took longer than the ttl the living are as they were, and who died in it is removed', async () => {
  const { primary, standby } = await openPair(origin)
  const [early, late] = [await openProxy(primary.url), await openProxy(primary.url)]
  const before = await openAdmin(primary.url)
  const { name, members, reader } = await openCrew(before, early.throughIt, late.throughIt)
  const table = await tableOf(before, schema, name)
  await standby.caughtUp()

  const [dead, ...living] = members
  await late.cut()
  await primary.stop('kill')
  await dead?.worker.kill()
  const stoppedMs = performance.now()
  await until(() => performance.now() > stoppedMs + 1.5 * TTL_MS, { message: 'an outage' })
  for (const { worker } of living) {
    expect(worker.toldOf('lost')).toEqual([{ kind: 'lost', reason: 'unreachable' }])
  }
  await standby.promote()
  const after = await openAdmin(standby.url)
  const backAt = await timeAt(after, 'clock_timestamp()')
  early.switchTo(standby.port)
  // Those who are back sweep for a while before the others can be. These then have 2 s left of their ttl:
  // one second is the longest backoff between two attempts to connect.
  await sweptFor(after, name, TTL_MS / 3)
  late.switchTo(standby.port)
  await late.restore()

  await until(async () => !(await tableOf(after, schema, name)).members.some(({ id }) => id === dead?.id), {
    message: 'the dead is gone',
  })
  await sweptFor(after, name, 1.2 * TTL_MS)
  await expectConverged(after, name, [reader, ...living.map(({ worker }) => worker)])
  const left = (await eventsOf(after, schema, name)).filter(({ kind }) => kind === 'left')
  expect(left).toMatchObject([{ member: dead?.id, reason: 'expired' }])
  const leftAt = left[0]?.at ?? 0n
  expect(Number(leftAt - backAt) / 1_000).toBeLessThan(2 * TTL_MS + HEARTBEAT_MS)
  // And had as long to come back as everybody else.
  const resumedAt = await timeAt(after, `(select resumed_at from ${schema}.sweeps where cluster = '${name}')`)
  expect(Number(leftAt - resumedAt) / 1_000).toBeGreaterThanOrEqual(TTL_MS)
  expect((await tableOf(after, schema, name)).members).toEqual(
    table.members.filter(({ id }) => id !== dead?.id),
  )
  for (const { worker, token } of living) expect(await worker.ask('lease', 0)).toBe(token)
}, 60_000)

test('promises 2, 3, 8 and 13: after a failover that lost commits all follow the new primary, and report it; a lost registration comes back with a higher token, and lost data is sent again', async () => {
  const { primary, standby } = await openPair(origin)
  const [early, late] = [await openProxy(primary.url), await openProxy(primary.url)]
  const name = uniqueName()
  // Nobody expires between those who are early and those who are late.
  const options = { name, ttlMs: 2 * TTL_MS, heartbeatMs: HEARTBEAT_MS }
  const [reader, unharmed, changed, removed, leaver] = await Promise.all([
    startReader({ ...options, connection: early.throughIt }),
    startMember({ ...options, connection: early.throughIt }, 'unharmed'),
    startMember({ ...options, connection: late.throughIt }, 'to be changed'),
    startMember({ ...options, connection: late.throughIt }, 'removed'),
    startMember({ ...options, connection: late.throughIt }, 'leaver'),
  ])
  await standby.caughtUp()
  await standby.disconnectFromPrimary()

  // All of this is lost: a change, a leave, a removal and the return after it, a registration.
  const before = await openAdmin(primary.url)
  await changed.worker.ask('setData', { n: 0, data: 'changed' })
  await leaver.worker.ask('close')
  await before.query(`delete from ${schema}.members where id = $1`, [removed.id])
  await until(async () => (await removed.worker.ask('nextLease', 0)) > removed.token, {
    message: 'it returns',
  })
  const returned = { id: removed.id, token: await removed.worker.ask('nextLease', 0) }
  const newcomer = await startMember({ ...options, connection: early.throughIt }, 'newcomer')
  const workers = [reader, ...[unharmed, changed, removed, newcomer].map(({ worker }) => worker)]
  await expectConverged(before, name, workers)
  const lost = await tableOf(before, schema, name)

  await Promise.all([early.cut(), late.cut()])
  await primary.stop('kill')
  await standby.promote()
  for (const proxy of [early, late]) proxy.switchTo(standby.port)
  const after = await openAdmin(standby.url)
  const { revision } = await tableOf(after, schema, name)
  expect(revision).toBeLessThan(lost.revision)
  for (const { id, token } of [returned, newcomer]) {
    const fenced = after.query(`select ${schema}.fence($1, $2)`, [id, token])
    await expect(fenced).rejects.toMatchObject({ code: 'MB001' })
  }
  // Some find a lower revision; others the one they know, with another content, or a higher one.
  await early.restore()
  await until(async () => (await newcomer.worker.ask('nextLease', 0)) > newcomer.token, {
    message: 'the newcomer registers again',
  })
  await expectConverged(after, name, [reader, unharmed.worker, newcomer.worker])
  const reached = (await tableOf(after, schema, name)).revision
  const others = Array.from({ length: lost.revision - reached }, (_, n) => `typed by hand ${n}`)
  const typed = await typeMembers(after, schema, name, others)
  expect((await tableOf(after, schema, name)).revision).toBe(lost.revision)
  await late.restore()

  const madeUpFor = async (): Promise<boolean> => {
    const { members } = await tableOf(after, schema, name)
    const data = members.map((member) => member.data)
    return data.includes('changed') && !data.includes('leaver')
  }
  await until(madeUpFor, { message: 'what was lost is made up for' })
  await sweptFor(after, name, 2.2 * TTL_MS)
  await expectConverged(after, name, workers)
  const { members } = await tableOf(after, schema, name)
  const tokens = new Map(members.map(({ id, token }) => [id, token]))
  expect(tokens.get(newcomer.id)).toBeGreaterThan(newcomer.token)
  expect(tokens.get(returned.id)).toBeGreaterThan(returned.token)
  expect(tokens.get(changed.id)).toBe(changed.token)
  expect(tokens.get(unharmed.id)).toBe(unharmed.token)
  for (const worker of workers) expect(reportsOf(worker)).toBe(1)
  const events = await expectWholeLog(after, schema, name)
  const since = events.slice(revision).filter(({ member }) => !typed.includes(member))
  const story = since.map(({ member, kind, reason }) => `${member} ${kind} ${reason}`)
  expect(story.toSorted()).toEqual(
    [
      `${changed.id} updated data`,
      `${returned.id} left superseded`,
      `${returned.id} joined registered`,
      `${newcomer.id} joined registered`,
      // It left, which was lost; nobody sends heartbeats for it.
      `${leaver.id} left expired`,
    ].toSorted(),
  )
}, 60_000)
