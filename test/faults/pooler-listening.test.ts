import diagnostics from 'node:diagnostics_channel'
import type { PostgresCluster, PostgresClusterOptions } from 'pg-membership'
import { expect, onTestFinished, test } from 'vitest'
import { databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { tableOf, typeMembers } from '../support/event-log.js'
import { openAdmin, openCluster, openPgBouncer } from '../support/opened.js'
import { until } from '../support/until.js'

const schema = await freshSchema()
const NEVER_MS = 600_000
const MODES = ['transaction', 'session'] as const

function open(options: Omit<PostgresClusterOptions, 'name'>): PostgresCluster {
  return openCluster({ schema, name: uniqueName(), ttlMs: NEVER_MS, ...options })
}

/** What a cluster says on a channel, from now on. */
function toldOn<T>(channel: 'status' | 'error', cluster: PostgresCluster): T[] {
  const told: T[] = []
  const note = (message: unknown): void => {
    if ((message as { cluster: string }).cluster === cluster.name) told.push(message as T)
  }
  diagnostics.subscribe(`pg-membership:${channel}`, note)
  onTestFinished(() => void diagnostics.unsubscribe(`pg-membership:${channel}`, note))
  return told
}

function modesOf(cluster: PostgresCluster): { readonly mode: string }[] {
  return toldOn('status', cluster)
}

function listenErrorsOf(cluster: PostgresCluster): () => readonly Error[] {
  const errors = toldOn<{ doing: string; error: Error }>('error', cluster)
  return () => errors.filter(({ doing }) => doing === 'listen').map(({ error }) => error)
}

/** What somebody else changes shows. */
async function expectConvergence(cluster: PostgresCluster): Promise<void> {
  const admin = await openAdmin()
  for (let n = 0; n < 3; n++) {
    await typeMembers(admin, schema, cluster.name, [`typed ${n}`])
    const { revision, members } = await tableOf(admin, schema, cluster.name)
    await until(() => cluster.snapshot?.revision === revision, { message: 'the change shows' })
    expect(cluster.snapshot?.members).toEqual(members)
  }
}

test.each(MODES)(
  'promises 2 and 9: with everything behind PgBouncer in %s mode, and nothing said about it, the reader polls and follows',
  async (mode) => {
    const pooler = await openPgBouncer(mode)
    const warnings: string[] = []
    const silent = (): void => undefined
    const warn = (_details: object, message: string): void => void warnings.push(message)
    const logger = { debug: silent, info: silent, warn, error: silent }
    const cluster = open({ connection: pooler.url, pollMs: 200, logger })
    const modes = modesOf(cluster)
    const errors = listenErrorsOf(cluster)
    await cluster.getMembers()
    await expectConvergence(cluster)
    await pooler.command('RECONNECT')
    await expectConvergence(cluster)
    expect(modes.map(({ mode }) => mode)).toEqual(['polling'])
    expect(errors(), 'LISTEN is not even tried').toEqual([])
    const told = warnings.filter((message) => /pooler.*listenConnection/.test(message))
    expect(told, 'what to do about it is told once').toHaveLength(1)
  },
)

test.each(MODES)(
  'promise 2: with queries behind PgBouncer in %s mode and a direct listenConnection, hints arrive',
  async (mode) => {
    const pooler = await openPgBouncer(mode)
    const cluster = open({ connection: pooler.url, listenConnection: databaseUrl(), pollMs: NEVER_MS })
    await cluster.getMembers()
    await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
    await expectConvergence(cluster)
    expect(cluster.status).toMatchObject({ mode: 'listening', lastError: undefined })
  },
)

test('promise 2: PgBouncer in session mode carries hints, also after its connections were replaced', async () => {
  const admin = await openAdmin()
  const pooler = await openPgBouncer('session')
  const options = { connection: pooler.url, listenConnection: pooler.url, pollMs: NEVER_MS }
  const cluster = open(options)
  await cluster.getMembers()
  await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
  await expectConvergence(cluster)
  const errors = listenErrorsOf(cluster)
  await admin.query('select pg_terminate_backend(pid) from unnest($1::int[]) pid', [await pooler.backends()])
  await until(() => errors().length > 0 && cluster.status.mode === 'listening', {
    message: 'it listens again',
  })
  await expectConvergence(cluster)
})

test.each(['directly', 'there, too'] as const)(
  'promises 2, 9 and 11: where LISTEN is lost in PgBouncer in transaction mode, with queries sent %s, the reader polls, and tries again at a pace',
  async (queries) => {
    const admin = await openAdmin()
    // One server connection: whatever was left on it, the next client gets.
    const pooler = await openPgBouncer('transaction', { settings: { default_pool_size: 1 } })
    const connection = queries === 'directly' ? databaseUrl() : pooler.url
    const cluster = open({ connection, listenConnection: pooler.url, pollMs: 200 })
    const modes = modesOf(cluster)
    const errors = listenErrorsOf(cluster)
    const startedMs = performance.now()
    await cluster.getMembers()
    await expectConvergence(cluster)
    await until(() => errors().length >= 2, { withinMs: 30_000, message: 'two attempts to listen' })
    await expectConvergence(cluster)
    expect(modes.map(({ mode }) => mode)).toEqual(['polling'])
    expect(errors().map(({ message }) => message)).toContainEqual(
      expect.stringMatching(/pooler in transaction mode.*listenConnection/),
    )
    // Each takes two seconds to learn that nothing is heard.
    expect(errors().length).toBeLessThanOrEqual((performance.now() - startedMs) / 1_900)

    const stranger = await openAdmin(pooler.url)
    const { rows } = await stranger.query<{ channel: string }>('select pg_listening_channels() as channel')
    const { rowCount } = await admin.query(
      `select from ${schema}.clusters where name = $1 and channel = any ($2)`,
      [cluster.name, rows.map(({ channel }) => channel)],
    )
    expect(rowCount, 'hints for the cluster reach others behind the pooler').toBe(0)
  },
)
