/** examples/routing-http: five real servers, whose requests arrive anywhere. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { MemoryCluster, MemoryWorld } from 'pg-membership/memory'
import { afterAll, beforeAll, beforeEach, expect, onTestFinished, test } from 'vitest'
import { RoutingServer } from '../../examples/routing-http/server.js'
import { until } from '../support/until.js'

const KEYS = Array.from({ length: 40 }, (_, n) => `key-${n}`)

/** Requests at any server of this process. */
let arrived = 0
const count = (): void => void (arrived += 1)
beforeAll(() => subscribe('http.server.request.start', count))
afterAll(() => void unsubscribe('http.server.request.start', count))

let world = new MemoryWorld()
beforeEach(() => {
  world = new MemoryWorld()
})

interface Process {
  readonly cluster: MemoryCluster
  readonly server: RoutingServer
}

async function start(): Promise<Process> {
  const cluster = new MemoryCluster({ name: 'http', world })
  const server = await RoutingServer.start(cluster)
  onTestFinished(async () => {
    await cluster.close()
    await server.stop()
  })
  return { cluster, server }
}

function startAll(count: number): Promise<Process[]> {
  return Promise.all(Array.from({ length: count }, start))
}

async function ask({ server }: Process, key: string, headers: Record<string, string> = {}): Promise<string> {
  const response = await fetch(`${server.url}/${key}`, { headers, signal: AbortSignal.timeout(10_000) })
  expect(response.status).toBe(200)
  return (await response.text()).trim().split(' ').at(-1) ?? ''
}

test('whichever process is asked, the same one answers, and each has its share', async () => {
  const processes = await startAll(5)
  const owners = new Set<string>()
  for (const key of KEYS) {
    const answers = new Set(await Promise.all(processes.map((process) => ask(process, key))))
    expect(answers.size, key).toBe(1)
    for (const owner of answers) owners.add(owner)
  }
  expect(owners.size).toBe(5)
})

test('a marked request is answered where it arrives', async () => {
  const [first] = await startAll(3)
  if (first === undefined) throw new Error('nobody')
  for (const key of KEYS) expect(await ask(first, key, { 'x-forwarded-by': 'x' })).toBe(first.server.url)
})

test('processes that believe in different owners forward once, and never in circles', async () => {
  const [one, two] = await startAll(2)
  if (one === undefined || two === undefined) throw new Error('nobody')
  // The first does not see that two more come, and the others believe that it is gone.
  world.disconnect(one.cluster)
  const all = [one, two, ...(await startAll(2))]
  const [first] = await one.cluster.getMembers()
  world.remove(first?.id ?? '')
  let disagreements = 0
  for (const key of KEYS) {
    const answers = []
    for (const process of all) {
      arrived = 0
      answers.push(await ask(process, key))
      expect(arrived, 'at the one that was asked, and at most at one other').toBeLessThanOrEqual(2)
    }
    if (new Set(answers).size > 1) disagreements += 1
  }
  expect(disagreements).toBeGreaterThan(0)
})

test('a request for an owner that is gone, but still listed, is answered where it arrived', async () => {
  const [asked] = await startAll(1)
  if (asked === undefined) throw new Error('nobody')
  const closed = createServer().listen(0, '127.0.0.1')
  await once(closed, 'listening')
  const { port } = closed.address() as AddressInfo
  await new Promise((resolve) => closed.close(resolve))
  const data = JSON.stringify({ url: `http://127.0.0.1:${port}`, weight: 1 })
  await asked.cluster.createMembership({ data }).register()
  expect(new Set(await Promise.all(KEYS.map((key) => ask(asked, key))))).toEqual(new Set([asked.server.url]))
})

test('no request is lost while one process after another is replaced', async () => {
  const processes = await startAll(3)
  const answered = [0, 0, 0, 0]
  let isOver = false
  const load = answered.map(async (_, client) => {
    for (let n = 0; !isOver; n++) {
      const asked = processes[n % processes.length]
      if (asked !== undefined) await ask(asked, `key-${client}-${n}`)
      answered[client] = n + 1
    }
  })
  for (let n = 0; n < 3; n++) {
    const [oldest] = processes
    processes.push(await start())
    // As a load balancer does: it sends nothing new to a process, and waits for what is under way.
    processes.shift()
    const before = [...answered]
    await until(() => answered.every((count, client) => count >= (before[client] ?? 0) + 2), {
      message: 'all requests from before are answered',
    })
    await oldest?.server.stop()
    await oldest?.cluster.close()
  }
  isOver = true
  await Promise.all(load)
})
