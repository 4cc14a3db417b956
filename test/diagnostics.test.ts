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
  expect(Object.keys(message).sort()).toEqual(['cluster', ...always].sort())
}

test('contract: the documentation lists the channels that there are', () => {
  const channels = ['snapshot', 'heartbeat', 'sweep', 'lease', 'eviction', 'status', 'error'] as const
  expect(Object.keys(fieldsOf).sort()).toEqual(channels.map((name) => `pg-membership:${name}`).sort())
})

test('contract: snapshot, status, lease and heartbeat tell what a process does in a cluster', async () => {
  const name = uniqueName()
  const snapshots = messagesOf('pg-membership:snapshot', name)
  const modes = messagesOf('pg-membership:status', name)
  const leases = messagesOf('pg-membership:lease', name)
  const heartbeats = messagesOf('pg-membership:heartbeat', name)
  const cluster = openCluster({ schema, name, ttlMs: 1_000, heartbeatMs: 100 })
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
  expect(leases.map(({ error }) => error?.code)).toEqual([undefined, 'DEREGISTERED'])
  for (const message of leases) expectFields('pg-membership:lease', message)
  expect(heartbeats[0]).toMatchObject({ cluster: name, registrations: 1 })
  expect(heartbeats[0]?.durationMs).toBeGreaterThan(0)
  for (const message of heartbeats) expectFields('pg-membership:heartbeat', message)
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
  expect(sweeps.find(({ removed }) => removed > 0)).toEqual({ cluster: name, removed: 1, obstacles: [] })
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
