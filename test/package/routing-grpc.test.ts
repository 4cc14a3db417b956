/** examples/routing-grpc: five real servers of gRPC, and a client that finds them in a cluster. */
import { Metadata } from '@grpc/grpc-js'
import { MemoryCluster, MemoryWorld } from 'pg-membership/memory'
import { Router } from 'pg-membership/routing'
import type { TypedCluster } from 'pg-membership/typed'
import { beforeAll, beforeEach, expect, onTestFinished, test } from 'vitest'
import { KEY, registerMembership } from '../../examples/routing-grpc/balancer.js'
import { KeysClient, KeysServer } from '../../examples/routing-grpc/server.js'
import { type Place, places } from '../../examples/routing-http/places.js'
import { until } from '../support/until.js'

const KEYS = Array.from({ length: 50 }, (_, n) => `key ${n}`)

let world = new MemoryWorld()
/** That of the client. */
let view: TypedCluster<Place>

beforeAll(() => registerMembership(() => view))
beforeEach(() => {
  world = new MemoryWorld()
  view = open()
})

function open(): TypedCluster<Place> {
  const cluster = places(new MemoryCluster({ name: 'grpc', world }))
  onTestFinished(() => cluster.close())
  return cluster
}

interface Running {
  readonly server: KeysServer
  readonly close: () => Promise<void>
}

async function start(answer: (asked: string) => Promise<string> = async (asked) => asked): Promise<Running> {
  const cluster = open()
  const server: KeysServer = await KeysServer.start(
    cluster,
    async (asked) => `${await answer(asked)} by ${server.url}`,
  )
  let closing: Promise<void> | undefined
  const close = (): Promise<void> => (closing ??= server.stop().then(() => cluster.close()))
  onTestFinished(close)
  return { server, close }
}

function startAll(count: number): Promise<Running[]> {
  return Promise.all(Array.from({ length: count }, () => start()))
}

function client(): KeysClient {
  const made = new KeysClient('membership:///grpc')
  onTestFinished(() => made.close())
  return made
}

/** Which server answered. */
async function ask(caller: KeysClient, key?: string): Promise<string> {
  const metadata = new Metadata()
  if (key !== undefined) metadata.set(KEY, key)
  return (await caller.ask('question', metadata)).split(' ').at(-1) ?? ''
}

/** Until it has a connection to each, and spreads calls over all of them. */
async function reachesAll(caller: KeysClient, servers: readonly Running[]): Promise<void> {
  const missing = new Set(servers.map(({ server }) => server.url))
  await until(async () => missing.delete(await ask(caller)) && missing.size === 0, { message: 'all answer' })
}

async function counts(caller: KeysClient, calls: number): Promise<Map<string, number>> {
  const answered = new Map<string, number>()
  for (let n = 0; n < calls; n += 50) {
    for (const url of await Promise.all(Array.from({ length: 50 }, () => ask(caller)))) {
      answered.set(url, (answered.get(url) ?? 0) + 1)
    }
  }
  return answered
}

test('a thousand calls without a key are spread evenly', async () => {
  const servers = await startAll(5)
  const caller = client()
  await reachesAll(caller, servers)
  const answered = [...(await counts(caller, 1_000)).values()]
  expect(answered).toHaveLength(5)
  // 200 expected, with a standard deviation of 13.
  for (const count of answered) expect(Math.abs(count - 200)).toBeLessThan(80)
})

test('calls with a key reach its owner, also the first ones, before all are connected', async () => {
  await startAll(5)
  await view.getMembers({ fresh: true })
  const router = new Router(view)
  const caller = client()
  const answers = await Promise.all([...KEYS, ...KEYS].map((key) => ask(caller, key)))
  expect(answers).toEqual([...KEYS, ...KEYS].map((key) => router.owner(key)?.data.url))
  expect(new Set(answers).size).toBe(5)
})

test('a draining server gets nothing new, and what it has begun it ends', async () => {
  const servers = await startAll(4)
  const begun: (() => void)[] = []
  const slow = await start(() => new Promise((resolve) => begun.push(() => resolve('slowly'))))
  const caller = client()
  const router = new Router(view)
  await view.getMembers({ fresh: true })
  const own = KEYS.filter((key) => router.owner(key)?.data.url === slow.server.url)
  const slowly = ask(caller, own[0])
  await until(() => begun.length === 1, { message: 'the call has arrived' })
  await slow.server.drain()
  expect((await counts(caller, 200)).has(slow.server.url)).toBe(false)
  for (const key of own) expect(servers.map(({ server }) => server.url)).toContain(await ask(caller, key))
  expect(begun).toHaveLength(1)
  const stopped = slow.close()
  begun[0]?.()
  expect(await slowly).toBe(slow.server.url)
  await stopped
})

test('no call fails while one server after another is replaced', async () => {
  const servers = await startAll(5)
  const caller = client()
  await reachesAll(caller, servers)
  let isOver = false
  const load = Array.from({ length: 4 }, async (_, client) => {
    let answered = 0
    while (!isOver) {
      await ask(caller, client % 2 === 0 ? undefined : `key ${client} ${answered}`)
      answered += 1
    }
    return answered
  })
  const started: Running[] = []
  for (const old of servers) {
    started.push(await start())
    await old.close()
  }
  await reachesAll(caller, started)
  isOver = true
  for (const count of await Promise.all(load)) expect(count).toBeGreaterThan(0)
})

test('keys of a server that died go to their next owners; nobody there is an error that says so', async () => {
  const [one, other] = await startAll(2)
  if (one === undefined || other === undefined) throw new Error('nobody')
  const caller = client()
  await reachesAll(caller, [one, other])
  const [dead] = view.snapshot?.members.filter(({ data }) => data.url === one.server.url) ?? []
  await one.close()
  // Its row is still there, as after a crash.
  await view.createMembership({ data: dead?.data ?? { url: '', weight: 1 } }).register()
  for (const key of KEYS) expect(await ask(caller, key)).toBe(other.server.url)
  await view.close()
  view = open()
  const lonely = new KeysClient('membership:///nobody')
  onTestFinished(() => lonely.close())
  await other.close()
  await expect(ask(lonely)).rejects.toMatchObject({
    code: 14,
    details: expect.stringMatching(/no members/) as string,
  })
})
