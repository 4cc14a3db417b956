import diagnostics from 'node:diagnostics_channel'
import { afterAll, expect, onTestFinished, test } from 'vitest'
import { adminClient, uniqueName } from '../support/database.js'
import { expectWholeLog, storyOf, tableOf } from '../support/event-log.js'
import {
  expectConverged,
  openPair,
  reportsOf,
  startMember,
  startOrigin,
  startReader,
  sweptFor,
} from '../support/failover.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import { until } from '../support/until.js'

const TTL_MS = 2_000
const HEARTBEAT_MS = 300
const schema = 'pgmembership'
const origin = await startOrigin()
afterAll(() => origin[Symbol.asyncDispose]())

/** One address after the other, whoever asks. */
function inTurn(urls: readonly string[]): () => Promise<string> {
  let n = 0
  return async () => urls[n++ % urls.length] ?? ''
}

/** The one that says that it is no standby. */
function primaryAmong(urls: readonly string[]): () => Promise<string> {
  return async () => {
    const found = await Promise.all(urls.map(async (url) => ((await isPrimary(url)) ? url : undefined)))
    return found.find((url) => url !== undefined) ?? Promise.reject(new Error('no primary'))
  }
}

async function isPrimary(url: string): Promise<boolean> {
  try {
    await using client = await adminClient(url)
    const { rows } = await client.query<{ standby: boolean }>('select pg_is_in_recovery() as standby')
    return rows[0]?.standby === false
  } catch {
    return false
  }
}

/** How many heartbeats of a cluster's processes got through. */
function heartbeatsOf(name: string): () => number {
  let count = 0
  const note = (message: unknown): void => {
    if ((message as { cluster: string }).cluster === name) count += 1
  }
  diagnostics.subscribe('pg-membership:heartbeat', note)
  onTestFinished(() => void diagnostics.unsubscribe('pg-membership:heartbeat', note))
  return () => count
}

test('promises 7 and 8: a standby is refused, and leases end on time while there is nothing else; once it is promoted, all find it', async () => {
  const { primary, standby } = await openPair(origin)
  const proxy = await openProxy(primary.url)
  const name = uniqueName()
  const [one, other] = [primary.url, standby.url]
  const addresses = [inTurn([one, other]), inTurn([other, one]), primaryAmong([one, other]), proxy.throughIt]
  const clusters = addresses.map((connection) => openCluster({ name, connection, ttlMs: TTL_MS }))
  const reader = openCluster({ name, connection: inTurn([other, one]), ttlMs: TTL_MS })
  const all = [reader, ...clusters]
  const memberships = await Promise.all(clusters.map((cluster) => joined(cluster)))
  await reader.getMembers()
  const before = await openAdmin(primary.url)
  const { members } = await tableOf(before, schema, name)
  const tokens = memberships.map(({ lease }) => lease?.token)
  await standby.caughtUp()

  const leases = memberships.map(({ lease }) => lease)
  await primary.stop('kill')
  const stoppedMs = performance.now()
  proxy.switchTo(standby.port)
  await until(() => all.every(({ status }) => status.mode === 'disconnected'), { message: 'all are cut off' })
  const beats = heartbeatsOf(name)
  await until(() => performance.now() > stoppedMs + TTL_MS, { message: 'a ttl passes' })
  for (const lease of leases) expect(lease?.signal.reason).toMatchObject({ reason: 'unreachable' })
  for (const { status } of all) expect(status.mode).toBe('disconnected')
  expect(clusters[3]?.status.lastError?.message).toMatch(/standby|recovery/)
  expect(beats()).toBe(0)

  await standby.promote()
  const after = await openAdmin(standby.url)
  // One of the functions leads to the old primary every other time.
  await until(() => all.every(({ status }) => status.mode === 'listening'), {
    withinMs: 30_000,
    message: 'all listen again',
  })
  for (const [n, membership] of memberships.entries()) {
    expect((await membership.whenRegistered()).token).toBe(tokens[n])
  }
  await sweptFor(after, name, 1.2 * TTL_MS)
  expect(await storyOf(after, schema, name)).toEqual(members.map(() => 'joined registered'))
  for (const { snapshot } of all) expect(snapshot?.members).toEqual(members)
}, 60_000)

test('promise 7: where new connections lead to the new primary and old ones stay on the old, a process goes over with all of them', async () => {
  const { primary, standby } = await openPair(origin)
  const proxy = await openProxy(primary.url)
  const name = uniqueName()
  const options = { name, ttlMs: TTL_MS, heartbeatMs: HEARTBEAT_MS, connection: proxy.throughIt }
  const clusters = Array.from({ length: 3 }, () => openCluster(options))
  const memberships = await Promise.all(clusters.map((cluster) => joined(cluster)))
  const before = await openAdmin(primary.url)
  const { members } = await tableOf(before, schema, name)
  await standby.caughtUp()
  await standby.promote()
  const after = await openAdmin(standby.url)
  proxy.switchTo(standby.port)

  // What a process writes through breaks; what it sends its heartbeats through does not.
  await before.query(
    `select pg_terminate_backend(pid) from pg_stat_activity
     where application_name like 'pg-membership%' and query ~ 'wait_ms|"register"|pg_notify'`,
  )
  await Promise.all(memberships.map((membership, n) => membership.setData(`moved ${n}`)))
  await sweptFor(after, name, 1.2 * TTL_MS)
  const table = await tableOf(after, schema, name)
  expect(table.members.map(({ data }) => data).toSorted()).toEqual(['moved 0', 'moved 1', 'moved 2'])
  expect(table.members.map(({ token }) => token)).toEqual(members.map(({ token }) => token))
  for (const { snapshot } of clusters) expect(snapshot?.members).toEqual(table.members)
}, 60_000)

test('promises 3, 7 and 8: while the old primary lives on for some, both sides go on without the other; who comes over then follows, reports it, and gets a higher token', async () => {
  const { primary, standby } = await openPair(origin)
  const [staying, moving] = [await openProxy(primary.url), await openProxy(primary.url)]
  const name = uniqueName()
  const options = { name, ttlMs: TTL_MS, heartbeatMs: HEARTBEAT_MS }
  const [reader, ...members] = await Promise.all([
    startReader({ ...options, connection: staying.throughIt }),
    ...['one', 'two'].map((data) => startMember({ ...options, connection: staying.throughIt }, data)),
    ...['three', 'four', 'five'].map((data) =>
      startMember({ ...options, connection: moving.throughIt }, data),
    ),
  ])
  const [stayed, moved] = [members.slice(0, 2), members.slice(2)]
  const workers = [reader, ...members.map(({ worker }) => worker)]
  const before = await openAdmin(primary.url)
  await expectConverged(before, name, workers)

  await standby.caughtUp()
  await standby.promote()
  moving.switchTo(standby.port)
  moving.reset()
  const after = await openAdmin(standby.url)
  for (const [admin, side] of [
    [before, stayed],
    [after, moved],
  ] as const) {
    const ids = side.map(({ id }) => id).toSorted()
    await until(
      async () =>
        String((await tableOf(admin, schema, name)).members.map(({ id }) => id).toSorted()) === String(ids),
      { message: 'each side has the others expired' },
    )
  }
  for (const { worker, token } of members) {
    expect(await worker.ask('lease', 0)).toBe(token)
    expect(worker.toldOf('lost')).toEqual([])
  }

  await primary.stop('kill')
  staying.switchTo(standby.port)
  await until(async () => (await tableOf(after, schema, name)).members.length === 5, {
    message: 'all are back',
  })
  await expectConverged(after, name, workers)
  for (const { worker, token } of stayed) expect(await worker.ask('nextLease', 0)).toBeGreaterThan(token)
  for (const { worker, token } of moved) expect(await worker.ask('lease', 0)).toBe(token)
  for (const { worker } of stayed) expect(reportsOf(worker)).toBe(1)
  expect(reportsOf(reader)).toBe(1)
  for (const { worker } of moved) expect(reportsOf(worker)).toBe(0)
  await expectWholeLog(after, schema, name)
}, 60_000)
