/** Each diagnostics channel: what is published, and that docs/diagnostics.md says the same. */
import diagnostics from 'node:diagnostics_channel'
import { readFileSync } from 'node:fs'
import type { DiagnosticsMessages } from 'pg-membership'
import { beforeAll, expect, onTestFinished, test } from 'vitest'
import { freshSchema, uniqueName } from './support/database.js'
import { joined, openAdmin, openCluster, openProxy } from './support/opened.js'
import { until } from './support/until.js'

type Channel = keyof DiagnosticsMessages

const documented = readFileSync(new URL('../docs/diagnostics.md', import.meta.url), 'utf8')
  .split('\n')
  .flatMap((line) => {
    const [, channel = '', , fields = ''] = line.split('|').map((cell) => cell.trim())
    const [, name] = /^`(pg-membership:\w+)`$/.exec(channel) ?? []
    const withoutRemarks = fields.replaceAll(/\([^)]*\)/g, '')
    return name === undefined
      ? []
      : [[name, [...withoutRemarks.matchAll(/`(\w+)`/g)].map(([, field]) => field)]]
  })
const fieldsOf = Object.fromEntries(documented) as Record<Channel, string[]>

let schema = ''
beforeAll(async () => {
  schema = await freshSchema()
})

function messagesOf<C extends Channel>(channel: C, cluster: string): readonly DiagnosticsMessages[C][] {
  const messages: DiagnosticsMessages[C][] = []
  const note = (message: unknown): void => {
    const told = message as DiagnosticsMessages[C]
    if (told.cluster === cluster) messages.push(told)
  }
  diagnostics.subscribe(channel, note)
  onTestFinished(() => void diagnostics.unsubscribe(channel, note))
  return messages
}

/** As the documentation lists them; those that it calls occasional are left out. */
function expectFields(channel: Channel, message: object, occasional: readonly string[] = []): void {
  const always = fieldsOf[channel].filter((field) => !occasional.includes(field))
  expect(Object.keys(message).sort()).toEqual(['cluster', 'publisher', ...always].sort())
}

test('contract: the documentation lists the channels that there are', () => {
  const channels = [
    'snapshot',
    'delta',
    'refresh',
    'heartbeat',
    'sweep',
    'lease',
    'eviction',
    'status',
    'error',
  ]
  expect(Object.keys(fieldsOf).sort()).toEqual(channels.map((name) => `pg-membership:${name}`).sort())
})

test('contract: snapshot, status, lease and heartbeat tell what a process does in a cluster', async () => {
  const name = uniqueName()
  const snapshots = messagesOf('pg-membership:snapshot', name)
  const modes = messagesOf('pg-membership:status', name)
  const leases = messagesOf('pg-membership:lease', name)
  const heartbeats = messagesOf('pg-membership:heartbeat', name)
  const cluster = openCluster({ schema, name, ttlMs: 10_000, heartbeatMs: 100 })
  const membership = await joined(cluster)
  const { token } = membership.lease ?? {}
  await until(() => cluster.status.mode === 'listening' && heartbeats.length > 0, { message: 'it beats' })
  await membership.deregister()
  await cluster.close()
  const shown = snapshots.find(({ members }) => members === 1)
  expect(shown).toMatchObject({ cluster: name, members: 1 })
  expect(shown?.revision).toBeGreaterThan(0)
  expectFields('pg-membership:snapshot', shown ?? {})
  expect(modes.map(({ mode }) => mode)).toEqual(['listening', 'closed'])
  for (const message of modes) expectFields('pg-membership:status', message)
  expect(leases.map(({ state }) => state)).toEqual(['granted', 'ended'])
  expect(leases.map((lease) => lease.token)).toEqual([token, token])
  expect(leases.map(({ leases }) => leases)).toEqual([1, 0])
  expect(leases.map(({ publisher }) => publisher)).toEqual([cluster, cluster])
  expect(leases.map(({ error }) => error?.code)).toEqual([undefined, 'DEREGISTERED'])
  for (const message of leases) expectFields('pg-membership:lease', message)
  expect(heartbeats[0]).toMatchObject({ cluster: name, registrations: 1, leases: 1 })
  expect(heartbeats[0]?.durationMs).toBeGreaterThan(0)
  for (const message of heartbeats) expectFields('pg-membership:heartbeat', message)
})

test('contract: delta and refresh tell what moved the snapshot on, and what a look has cost', async () => {
  const name = uniqueName()
  const deltas = messagesOf('pg-membership:delta', name)
  const refreshes = messagesOf('pg-membership:refresh', name)
  const watching = openCluster({ schema, name })
  // Without LISTEN: otherwise announcements overtake answers.
  const writing = openCluster({ schema, name, listenConnection: false })
  await joined(watching)
  await until(() => watching.status.mode === 'listening', { message: 'it hears' })
  const membership = await joined(writing)
  await membership.setData('x')
  await membership.deregister()
  await until(() => watching.snapshot?.members.length === 1, { message: 'it has heard of the end' })
  await writing.getMembers({ fresh: true })
  const seenBy = (publisher: unknown, source: string): (readonly number[])[] =>
    deltas
      .filter((delta) => delta.publisher === publisher && delta.source === source)
      .map(({ joined, updated, left }) => [joined, updated, left])
  expect(seenBy(watching, 'announcement')).toEqual([[1, 0, 0], [0, 1, 0], [0, 0, 1]]) // prettier-ignore
  expect(seenBy(writing, 'answer').slice(-2)).toEqual([[0, 1, 0], [0, 0, 1]]) // prettier-ignore
  expect(deltas.at(-1)?.revision).toBe(writing.snapshot?.revision)
  for (const message of deltas) expectFields('pg-membership:delta', message)
  const kinds = refreshes.filter(({ publisher }) => publisher === writing).map(({ kind }) => kind)
  expect([kinds[0], kinds.at(-1)]).toEqual(['all', 'same'])
  for (const message of refreshes) expectFields('pg-membership:refresh', message)
  expect(refreshes[0]?.durationMs).toBeGreaterThan(0)
})

test('contract: delta counts what a refresh has found', async () => {
  const name = uniqueName()
  const deltas = messagesOf('pg-membership:delta', name)
  const cluster = openCluster({ schema, name, listenConnection: false, pollMs: 86_400_000 })
  const other = openCluster({ schema, name })
  const first = await joined(other)
  await cluster.getMembers()
  await first.deregister()
  await joined(other)
  await cluster.getMembers({ fresh: true })
  expect(deltas.filter(({ publisher }) => publisher === cluster)).toMatchObject([
    { source: 'refresh', joined: 1, updated: 0, left: 1, revision: cluster.snapshot?.revision },
  ])
})

test('contract: sweep tells who was removed', async () => {
  const name = uniqueName()
  const sweeps = messagesOf('pg-membership:sweep', name)
  const [watching, gone] = [openCluster({ schema, name }), openCluster({ schema, name })]
  await joined(watching)
  const { id } = await joined(gone)
  const admin = await openAdmin()
  // As if it had been silent for an hour, and others had swept all the time.
  const aged = async (): Promise<boolean> => {
    await admin.query(
      `update ${schema}.sweeps set resumed_at = clock_timestamp() - interval '1 hour' where cluster = $1`,
      [name],
    )
    await admin.query(
      `update ${schema}.members set heartbeat_at = clock_timestamp() - interval '1 hour' where id = $1`,
      [id],
    )
    return sweeps.some(({ removed }) => removed > 0)
  }
  await until(aged, { message: 'it is removed' })
  expect(sweeps.find(({ removed }) => removed > 0)).toMatchObject({
    publisher: watching,
    removed: 1,
    obstacles: [],
  })
  for (const message of sweeps) expectFields('pg-membership:sweep', message)
})

test('contract: eviction tells who keeps a membership away, why, and until when', async () => {
  const name = uniqueName()
  const evictions = messagesOf('pg-membership:eviction', name)
  const { id } = await joined(openCluster({ schema, name }))
  const admin = await openAdmin()
  await admin.query(`select ${schema}.evict($1, $2, 'why', '1 day')`, [name, id])
  await until(() => evictions.length > 0, { message: 'it is told' })
  expect(evictions[0]).toMatchObject({
    id,
    note: 'why',
    until: expect.stringMatching(/^\d{4}-.*Z$/) as unknown,
  })
  for (const message of evictions) expectFields('pg-membership:eviction', message)
})

test('contract: error tells what was being done, and why it failed', async () => {
  const name = uniqueName()
  const errors = messagesOf('pg-membership:error', name)
  const proxy = await openProxy()
  const cluster = openCluster({ schema, name, connection: proxy.throughIt, ttlMs: 1_000, heartbeatMs: 100 })
  await joined(cluster)
  await proxy.cut()
  await until(() => errors.some(({ doing }) => doing === 'heartbeat'), { message: 'it is told' })
  for (const message of errors) {
    expect(message.error).toBeInstanceOf(Error)
    expectFields('pg-membership:error', message, ['from', 'to'])
  }
})
