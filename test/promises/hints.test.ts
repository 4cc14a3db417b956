import { setInterval } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { type AdminClient, uniqueName } from '../support/database.js'
import { tableOf, typeMembers } from '../support/event-log.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import { startRoles } from '../support/roles.js'
import { until } from '../support/until.js'
import { countOf } from '../support/wire.js'

// Members hear announcements. Who may not is told by hints: a reader, or a member without that grant.
const { schema, nameOf, urlOf, as } = await startRoles()
const hinted = urlOf('member')
await using owner = await as('owner')
await owner.query(`revoke execute on function members_channel(text) from "${nameOf.member}"`)
const NEVER_MS = 600_000

/** A role that may do nothing here but connect. */
async function unrelated(): Promise<AdminClient> {
  const admin = await openAdmin()
  const role = uniqueName('stranger')
  await admin.query(`create role "${role}"`)
  onTestFinished(async () => {
    await admin.query(`reset role; drop role "${role}"`)
  })
  const stranger = await openAdmin()
  await stranger.query(`set role "${role}"`)
  return stranger
}

async function channelOf(admin: AdminClient, cluster: string): Promise<string> {
  const { rows } = await admin.query<{ channel: string }>(
    `select channel from ${schema}.clusters where name = $1`,
    [cluster],
  )
  return rows[0]?.channel ?? ''
}

const GARBAGE = [
  '',
  'x'.repeat(7_999),
  '{"kind":"left","member":"00000000-0000-0000-0000-000000000000"}',
  '{{{',
  'null',
  '\u0001\ufffd🐘',
  `'; drop table members; --`,
]

test('promise 10: whatever an unrelated role sends on the channel, no snapshot changes', async () => {
  const admin = await openAdmin()
  const proxy = await openProxy()
  const name = uniqueName()
  await typeMembers(admin, schema, name, ['one', 'two'])
  const options = { ttlMs: NEVER_MS, pollMs: NEVER_MS }
  const cluster = openCluster({ schema, name, connection: proxy.url(hinted), ...options })
  const watcher = cluster.watchMembers()
  await watcher.next()
  await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
  await cluster.getMembers({ fresh: true })
  const { snapshot } = cluster
  const stranger = await unrelated()
  await expect(stranger.query(`select from ${schema}.members`)).rejects.toMatchObject({ code: '42501' })

  const reads = countOf(proxy, 'changes', 'members')
  const channel = await channelOf(admin, name)
  for (const payload of GARBAGE) await stranger.query(`select pg_notify($1, $2)`, [channel, payload])
  // A thousand that arrive at once: in one transaction, each different, or they would collapse.
  await stranger.query(`select pg_notify($1, n::text) from generate_series(1, 1000) n`, [channel])
  // What comes after them was heard after them.
  await typeMembers(admin, schema, name, ['three'])
  await until(() => cluster.snapshot !== snapshot, { message: 'the true change shows' })
  expect(cluster.snapshot).toMatchObject(await tableOf(admin, schema, name))
  expect(cluster.snapshot?.revision).toBe(3)
  expect(reads()).toBeGreaterThan(0)
  expect(reads()).toBeLessThanOrEqual(GARBAGE.length + 5)
  expect((await watcher.next()).value).toHaveLength(3)
  expect(cluster.status).toMatchObject({ mode: 'listening', lastError: undefined })
})

test('promise 10: a thousand hints, sent one by one while a refresh is under way, cost one or two more', async () => {
  const admin = await openAdmin()
  const proxy = await openProxy()
  const name = uniqueName()
  await typeMembers(admin, schema, name, ['one'])
  const cluster = openCluster({
    schema,
    name,
    connection: proxy.url(hinted),
    listenConnection: hinted,
    ttlMs: NEVER_MS,
    pollMs: NEVER_MS,
  })
  await cluster.getMembers()
  await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
  await cluster.getMembers({ fresh: true })
  const { snapshot } = cluster
  const stranger = await unrelated()
  const channel = await channelOf(admin, name)
  const reads = countOf(proxy, 'changes', 'members')
  proxy.freeze({ direction: 'toClient' })
  for (let n = 0; n < 1_000; n++) await stranger.query(`notify ${channel}`)
  proxy.thaw()
  await cluster.getMembers({ fresh: true })
  expect(cluster.snapshot).toBe(snapshot)
  expect(reads()).toBeGreaterThan(0)
  expect(reads()).toBeLessThan(10)
})

test('promise 10: through a flood of hints a true change shows, and most of them cost nothing', async () => {
  const admin = await openAdmin()
  const proxy = await openProxy()
  const name = uniqueName()
  await typeMembers(admin, schema, name, ['one'])
  const options = { ttlMs: NEVER_MS, pollMs: NEVER_MS }
  const cluster = openCluster({ schema, name, connection: proxy.url(hinted), ...options })
  await cluster.getMembers()
  await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
  const { snapshot } = cluster
  const strangers = await Promise.all([unrelated(), unrelated(), unrelated()])
  const channel = await channelOf(admin, name)
  const reads = countOf(proxy, 'changes', 'members')
  let sent = 0
  const flood = Promise.all(
    strangers.map(async (stranger) => {
      for (; sent < 3_000; sent++) await stranger.query(`notify ${channel}`)
    }),
  )
  await until(() => sent > 1_500, { message: 'half of the flood' })
  expect(cluster.snapshot).toBe(snapshot)
  await typeMembers(admin, schema, name, ['two'])
  // After so many hints for nothing the next one waits: the longer the flood takes, the longer, and 5 s at most.
  await until(() => cluster.snapshot?.revision === 2, { message: 'the true change shows' })
  await flood
  expect(reads()).toBeLessThan(sent / 2)
})

/** Sends hints one by one, at about this rate, until it is stopped; tells how many it has sent. */
function pester(
  stranger: AdminClient,
  channel: string,
  perSecond: number,
): { sent: number; stop(): Promise<void> } {
  const stopped = new AbortController()
  const pestering = {
    sent: 0,
    stop: async () => {
      stopped.abort()
      await running
    },
  }
  const run = async (): Promise<void> => {
    try {
      for await (const tick of setInterval(1_000 / perSecond, 1, { signal: stopped.signal })) {
        await stranger.query(`notify ${channel}`)
        pestering.sent += tick
      }
    } catch (error) {
      if (!stopped.signal.aborted) throw error
    }
  }
  const running = run()
  return pestering
}

test('promise 10: a stranger who sends 150 hints a second for nothing costs little more than the polls', async () => {
  const admin = await openAdmin()
  const proxy = await openProxy()
  const name = uniqueName()
  await typeMembers(admin, schema, name, ['one'])
  const readers = Array.from({ length: 5 }, () =>
    openCluster({
      schema,
      name,
      connection: proxy.url(hinted),
      listenConnection: hinted,
      ttlMs: NEVER_MS,
      pollMs: 1_000,
    }),
  )
  for (const reader of readers) await reader.getMembers()
  await until(() => readers.every(({ status }) => status.mode === 'listening'), { message: 'all listen' })
  const reads = countOf(proxy, 'changes', 'members')
  const startedMs = performance.now()
  const pestering = pester(await unrelated(), await channelOf(admin, name), 150)
  await until(() => pestering.sent >= 400, { message: '400 hints' })
  const polls = Math.ceil((performance.now() - startedMs) / 1_000)
  // From a few milliseconds to a poll by doubling is a dozen reads; then one a poll.
  expect(reads()).toBeLessThan(readers.length * (12 + 2 * polls))

  await typeMembers(admin, schema, name, ['two'])
  await until(() => readers.every(({ snapshot }) => snapshot?.revision === 2), {
    withinMs: 2_000,
    message: 'the true change shows in all of them within a poll',
  })
  await pestering.stop()
})

test('promise 10: hints for nothing slow down nobody who asks, and no hint after a change was found', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  const cluster = openCluster({ schema, name, connection: hinted, ttlMs: NEVER_MS, pollMs: NEVER_MS })
  const membership = await joined(cluster, { data: 'own' })
  await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
  const pestering = pester(await unrelated(), await channelOf(admin, name), 150)
  await until(() => pestering.sent >= 300, { message: '300 hints' })
  for (const data of ['1', '2', '3']) {
    await typeMembers(admin, schema, name, [data])
    const startedMs = performance.now()
    expect((await cluster.getMembers({ fresh: true })).at(-1)?.data).toBe(data)
    await membership.setData(`own ${data}`)
    expect(performance.now() - startedMs).toBeLessThan(500)
  }
  await pestering.stop()
  await typeMembers(admin, schema, name, ['heard'])
  await until(() => cluster.snapshot?.members.at(-1)?.data === 'heard', {
    withinMs: 500,
    message: 'the hint is heard at once: one before it was true',
  })
})
