import diagnostics from 'node:diagnostics_channel'
import { inspect } from 'node:util'
import type { Logger, PostgresCluster } from 'pg-membership'
import { expect, onTestFinished, test } from 'vitest'
import { databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import { until } from '../support/until.js'

const schema = await freshSchema()

interface Said {
  readonly level: keyof Logger
  readonly details: Readonly<Record<string, unknown>>
  readonly message: string
}

function recorder(): Logger & { readonly said: Said[]; at(level: keyof Logger): string[] } {
  const said: Said[] = []
  const note = (level: keyof Logger) => (details: object, message: string) =>
    void said.push({ level, details: details as Said['details'], message })
  const at = (wanted: keyof Logger): string[] =>
    said.filter(({ level }) => level === wanted).map(({ message }) => message)
  return { debug: note('debug'), info: note('info'), warn: note('warn'), error: note('error'), said, at }
}

/** On a channel, from now on. */
function toldOn(channel: string, name: string): readonly Readonly<Record<string, unknown>>[] {
  const told: Record<string, unknown>[] = []
  const note = (message: unknown): void => {
    if ((message as { cluster: string }).cluster === name) told.push(message as Record<string, unknown>)
  }
  diagnostics.subscribe(`pg-membership:${channel}`, note)
  onTestFinished(() => void diagnostics.unsubscribe(`pg-membership:${channel}`, note))
  return told
}

async function listening(cluster: PostgresCluster): Promise<void> {
  await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
}

test('contract: a healthy start says that it listens, and nothing before', async () => {
  const [logger, name] = [recorder(), uniqueName()]
  const modes = toldOn('status', name)
  const cluster = openCluster({ schema, name, logger })
  await joined(cluster)
  await listening(cluster)
  await until(() => logger.at('info').includes('Now listening'), { message: 'it is told' })
  expect(logger.at('info').filter((message) => message.startsWith('Now'))).toEqual(['Now listening'])
  expect(modes.map(({ mode }) => mode)).toEqual(['listening'])
  expect(logger.at('warn')).toEqual([])
  expect(cluster.status.lastError).toBeUndefined()
})

test('contract: without LISTEN the start says that it polls', async () => {
  const [logger, name] = [recorder(), uniqueName()]
  const cluster = openCluster({ schema, name, logger, listenConnection: false })
  await cluster.getMembers()
  expect(cluster.status.mode).toBe('polling')
  await until(() => logger.at('info').includes('Now polling'), { message: 'it is told' })
  expect(logger.at('warn')).toEqual([])
})

test('contract: lastError is the trouble of now, and gone when all works again', async () => {
  const logger = recorder()
  const proxy = await openProxy()
  const cluster = openCluster({
    ...{ schema, name: uniqueName(), logger, connection: proxy.throughIt },
    ...{ ttlMs: 3_000, heartbeatMs: 200, pollMs: 200 },
  })
  const membership = await joined(cluster)
  await listening(cluster)
  expect(cluster.status.lastError).toBeUndefined()
  await proxy.cut()
  const setting = membership.setData('meanwhile')
  await until(() => cluster.status.lastError?.message.includes('ECONNREFUSED'), { message: 'it is told' })
  await proxy.restore()
  await setting
  await listening(cluster)
  await until(() => cluster.status.lastError === undefined, { message: 'all works again' })
  // What failed for as long as it failed was told once each, with what it was about.
  const warned = logger.said.filter(({ level, details }) => level === 'warn' && 'err' in details)
  const doings = warned.map(({ details }) => details.doing).filter((doing) => doing !== undefined)
  expect(doings.length).toBeGreaterThan(0)
  expect(new Set(doings).size).toBe(doings.length)
  for (const { details } of warned) expect(details.err).toBeInstanceOf(Error)
  expect(inspect(warned[0]?.details), 'what console prints').toContain('Error: ')
})

test('contract: a trouble of what is not done any more is no trouble', async () => {
  const proxy = await openProxy()
  const cluster = openCluster({
    ...{ schema, name: uniqueName(), connection: proxy.throughIt, ttlMs: 3_000, heartbeatMs: 200 },
    listenConnection: false,
  })
  const errors = toldOn('error', cluster.name)
  const membership = await joined(cluster)
  await proxy.cut()
  await until(() => errors.some(({ doing }) => doing === 'heartbeat'), { message: 'a heartbeat fails' })
  const leaving = membership.deregister()
  await proxy.restore()
  await leaving
  await until(() => cluster.status.lastError === undefined, { message: 'nothing is wrong' })
})

test('contract: a listener that is lost warns once, with the SQLSTATE, and is told once when it is back', async () => {
  const admin = await openAdmin()
  const [logger, proxy, name] = [recorder(), await openProxy(), uniqueName()]
  const cluster = openCluster({ schema, name, logger, listenConnection: proxy.throughIt, pollMs: 60_000 })
  const errors = toldOn('error', name)
  const listens = (): number => errors.filter(({ doing }) => doing === 'listen').length
  await cluster.getMembers()
  await listening(cluster)
  // Before it is lost: it must not be back before the attempts that are to fail.
  proxy.refuse()
  const { rows } = await admin.query(
    `select pg_terminate_backend(pid) from pg_stat_activity
     where query ilike 'listen%' and application_name like $1`,
    [`pg-membership % ${process.pid} %`],
  )
  expect(rows).not.toEqual([])
  await until(() => listens() >= 6, { message: 'it is lost, and five attempts fail' })
  await proxy.restore()
  await listening(cluster)
  const warned = logger.said.filter(({ level }) => level === 'warn')
  expect(warned.map(({ message }) => message)).toEqual([
    expect.stringMatching(/^listen failed: .*57P01/) as string,
  ])
  expect(warned[0]?.details).toMatchObject({ doing: 'listen', err: { code: '57P01' } })
  expect(logger.at('info')).toEqual(['Now listening', 'Now polling', 'Now listening'])
})

test('promise 11: the bounds of shared connections are those of the clusters that are open', async () => {
  const proxy = await openProxy(databaseUrl())
  const [name, logger] = [uniqueName(), recorder()]
  const patient = openCluster({
    ...{ schema, name, logger, connection: proxy.throughIt, ttlMs: 600_000, pollMs: 60_000 },
    listenConnection: false,
  })
  const hasty = openCluster({ schema, name: uniqueName(), connection: patient.connections, ttlMs: 1_000 })
  await Promise.all([patient.getMembers(), hasty.getMembers()])
  await hasty.close()
  // A round trip takes longer than the other one had patience, and less than this one has.
  proxy.delay(400)
  await patient.getMembers({ fresh: true })
  expect(patient.status.lastError).toBeUndefined()
  expect(logger.at('warn')).toEqual([])
})
