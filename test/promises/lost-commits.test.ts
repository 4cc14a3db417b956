import type { Logger } from 'pg-membership'
import { expect, test } from 'vitest'
import { freshSchema, uniqueName } from '../support/database.js'
import { loseCommits, tableOf, typeMembers } from '../support/event-log.js'
import { whenCallBlocked } from '../support/locks.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import { until } from '../support/until.js'

const schema = await freshSchema()

interface Said {
  readonly level: keyof Logger
  readonly message: string
}

function listeningLogger(): Logger & { readonly said: Said[]; reports(): string[] } {
  const said: Said[] = []
  const at = (level: keyof Logger) => (_details: object, message: string) =>
    void said.push({ level, message })
  const reports = (): string[] => said.filter(({ level }) => level === 'error').map(({ message }) => message)
  return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error'), said, reports }
}

/** Nothing is asked of the database but what a test brings about. */
const RARELY = { ttlMs: 86_400_000, pollMs: 86_400_000, crashGraceMs: false } as const
const REPORT = 'The database lost commits: it does not have what this process was told of'

test('promise 3: a reader follows when the database has lost commits, and reports it as an error', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  await typeMembers(admin, schema, name, ['one', 'two', 'three', 'four'])
  const logger = listeningLogger()
  const cluster = openCluster({ schema, name, logger, pollMs: 200 })
  await cluster.getMembers()
  const yielded: (string | undefined)[] = []
  const watch = async (): Promise<void> => {
    for await (const members of cluster.watchMembers()) yielded.push(members.map(({ data }) => data).join())
  }
  const watching = watch()
  await loseCommits(admin, schema, name, 2)
  await until(() => cluster.snapshot?.revision === 2, { message: 'the reader goes back' })
  expect(cluster.snapshot).toMatchObject(await tableOf(admin, schema, name))
  expect(logger.reports()).toEqual([REPORT])
  await typeMembers(admin, schema, name, ['instead'])
  await until(() => cluster.snapshot?.revision === 3, { message: 'the reader goes on' })
  expect(cluster.snapshot).toMatchObject(await tableOf(admin, schema, name))
  expect(logger.reports()).toEqual([REPORT])
  await cluster.close()
  await watching
  expect(yielded).toEqual(['one,two,three,four', 'one,two', 'one,two,instead'])
})

test('promise 3: another history of equal length is told apart, and reported', async () => {
  const admin = await openAdmin()
  const proxy = await openProxy()
  const name = uniqueName()
  await typeMembers(admin, schema, name, ['one', 'two', 'three'])
  const logger = listeningLogger()
  const cluster = openCluster({ schema, name, logger, connection: proxy.throughIt, pollMs: 200 })
  await cluster.getMembers()
  await proxy.cut()
  await loseCommits(admin, schema, name, 2)
  await typeMembers(admin, schema, name, ['another three'])
  await proxy.restore()
  await until(() => cluster.snapshot?.members[2]?.data === 'another three', {
    message: 'the reader converges',
  })
  expect(cluster.snapshot).toMatchObject(await tableOf(admin, schema, name))
  expect(logger.reports()).toEqual([REPORT])
})

test('promises 2 and 3: another history that has grown longer is told apart, and reported', async () => {
  const admin = await openAdmin()
  const proxy = await openProxy()
  const name = uniqueName()
  await typeMembers(admin, schema, name, ['one', 'two', 'three'])
  const logger = listeningLogger()
  const cluster = openCluster({ schema, name, logger, connection: proxy.throughIt, pollMs: 200 })
  await cluster.getMembers()
  await proxy.cut()
  await loseCommits(admin, schema, name, 1)
  await typeMembers(admin, schema, name, ['2', '3', '4', '5'])
  await proxy.restore()
  await until(() => cluster.snapshot?.revision === 5, { message: 'the reader converges' })
  expect(cluster.snapshot).toMatchObject(await tableOf(admin, schema, name))
  expect(logger.reports()).toEqual([REPORT])
})

test('promise 8: a member whose registration is among the lost commits comes back, and its token does not go back', async () => {
  const admin = await openAdmin()
  const proxy = await openProxy()
  const name = uniqueName()
  await typeMembers(admin, schema, name, ['one'])
  const cluster = openCluster({ schema, name, connection: proxy.throughIt, ttlMs: 2_000 })
  const membership = await joined(cluster, { data: 'mine' })
  for (let n = 0; n < 5; n++) {
    await membership.deregister()
    await membership.register()
  }
  const token = membership.lease?.token ?? 0
  await proxy.cut()
  await loseCommits(admin, schema, name, 1)
  await proxy.restore()
  const back = async (): Promise<boolean> =>
    (await tableOf(admin, schema, name)).members.some(({ id }) => id === membership.id)
  await until(back, { message: 'the member is back' })
  expect((await membership.whenRegistered()).token).toBeGreaterThan(token)
  await until(() => (cluster.snapshot?.get(membership.id)?.token ?? 0) > token, { message: 'its own view' })
  expect(cluster.snapshot).toMatchObject(await tableOf(admin, schema, name))
})

test('promise 3: what was only announced, and is lost, is reported once', async () => {
  const admin = await openAdmin()
  const [proxy, name, logger] = [await openProxy(), uniqueName(), listeningLogger()]
  await typeMembers(admin, schema, name, ['one', 'two'])
  const cluster = openCluster({ schema, name, logger, connection: proxy.throughIt, ...RARELY })
  await cluster.getMembers()
  await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
  await cluster.getMembers({ fresh: true })
  await typeMembers(admin, schema, name, ['three'])
  await until(() => cluster.snapshot?.revision === 3, { message: 'it is announced' })
  await proxy.cut()
  await loseCommits(admin, schema, name, 2)
  await proxy.restore()
  await until(() => cluster.snapshot?.revision === 2, { message: 'the reader goes back' })
  await cluster.getMembers({ fresh: true })
  expect(cluster.snapshot).toMatchObject(await tableOf(admin, schema, name))
  expect(logger.reports()).toEqual([REPORT])
})

test('promises 2 and 3: a heartbeat that finds the cluster where it was before confirms nothing: the loss is found, and reported once', async () => {
  const admin = await openAdmin()
  const [name, logger] = [uniqueName(), listeningLogger()]
  const cluster = openCluster({
    ...{ schema, name, logger, ...RARELY },
    ...{ heartbeatMs: 100, listenConnection: false },
  })
  await joined(cluster)
  await typeMembers(admin, schema, name, ['a ghost'])
  await until(() => cluster.snapshot?.revision === 2, { message: 'a heartbeat tells' })
  await loseCommits(admin, schema, name, 1)
  await until(() => cluster.snapshot?.revision === 1, { message: 'a heartbeat tells that it is gone' })
  expect(cluster.snapshot).toMatchObject(await tableOf(admin, schema, name))
  expect(logger.reports()).toEqual([REPORT])
})

test('promises 1 and 3: a call whose answer is among the lost commits, and was never shown, is reported, and its data sent again', async () => {
  const admin = await openAdmin()
  const holder = await openAdmin()
  const [proxy, name, logger] = [await openProxy(), uniqueName(), listeningLogger()]
  const cluster = openCluster({
    ...{ schema, name, logger, ...RARELY },
    ...{ connection: proxy.throughIt, listenConnection: false },
  })
  const membership = await joined(cluster)
  const { revision } = await tableOf(admin, schema, name)
  await cluster.getMembers({ fresh: true })
  // What follows this reaches nobody: the answer to the next call does not fit the snapshot, and a refresh waits.
  await typeMembers(admin, schema, name, ['of another'])
  await holder.query('begin')
  await holder.query(`lock table ${schema}.sweeps in access exclusive mode`)
  const setting = membership.setData('mine')
  await whenCallBlocked(admin, schema, 'sweep_overdue')
  expect((await tableOf(admin, schema, name)).revision).toBe(revision + 2)
  await proxy.cut()
  await loseCommits(admin, schema, name, revision)
  await holder.query('rollback')
  await proxy.restore()
  await setting
  expect(cluster.snapshot?.members.map(({ data }) => data)).toEqual(['mine'])
  expect(cluster.snapshot).toMatchObject(await tableOf(admin, schema, name))
  expect(logger.reports()).toEqual([REPORT])
})
