import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { adminClient, databaseUrl } from '../support/database.js'
import { until } from '../support/until.js'
import { Program } from './program.js'

// Several processes start, each of which compiles its TypeScript first.
vi.setConfig({ testTimeout: 90_000 })

// The examples take the default schema, so they get a database of their own.
const database = `examples_${randomUUID().slice(0, 8)}`
const url = Object.assign(new URL(databaseUrl()), { pathname: `/${database}` }).href

beforeAll(async () => {
  await using admin = await adminClient()
  await admin.query(`create database ${database}`)
})

afterAll(async () => {
  await using admin = await adminClient()
  await admin.query(`drop database ${database} with (force)`)
})

function start(name: string): Program {
  return new Program(`examples/${name}.ts`, { DATABASE_URL: url, PORT: '0' })
}

function get(address: string): Promise<Response> {
  return fetch(address, { signal: AbortSignal.timeout(10_000) })
}

async function stop(program: Program): Promise<void> {
  program.signal('SIGTERM')
  expect(await program.exited()).toBe(0)
}

test('leader: one process acts, and the next one as soon as the first stops', async () => {
  await using first = start('leader')
  const [, leader] = await first.prints(/(process \d+) leads: wrote row 1/)
  await using second = start('leader')
  await second.prints(/is registered/)
  await first.prints(/wrote row 3/)
  expect(second.output).not.toContain('leads')
  await stop(first)
  const [, next] = await second.prints(/(process \d+) leads: wrote row/)
  await stop(second)

  await using client = await adminClient(url)
  const { rows } = await client.query<{ leader: string }>('select leader from leader_example order by n')
  const terms = rows.map((row) => row.leader).filter((name, n, all) => name !== all[n - 1])
  expect(terms, 'one after the other, never side by side').toEqual([leader, next])
})

test('leader: goes on when its connection is terminated in the middle of its transaction', async () => {
  await using program = start('leader')
  await program.prints(/leads: wrote row/)
  await using client = await adminClient(url)
  await client.query('begin; lock table leader_example')
  const waiting = `select pid from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`
  await until(async () => (await client.query(waiting)).rowCount, { message: 'it waits in the middle' })
  await client.query(`select pg_terminate_backend(pid) from (${waiting}) it`)
  await client.query('rollback')
  await program.prints(/nothing was done[^]*leads: wrote row/)
  await stop(program)
})

test('routing-http: all processes name the same owner of a key; the keys of one that stops move', async () => {
  await using first = start('routing-http/main')
  await using second = start('routing-http/main')
  const [, survivor = ''] = await first.prints(/(http:\S+) is registered/)
  const [, other = ''] = await second.prints(/(http:\S+) is registered/)
  const ask = (key: number): Promise<string[]> =>
    Promise.all([survivor, other].map(async (address) => (await get(`${address}/key-${String(key)}`)).text()))
  const agree = ([one, another]: string[]): boolean => one === another

  // They hear of each other within milliseconds.
  const agreed = async (): Promise<boolean> => agree(await ask(0)) && agree(await ask(1))
  await until(agreed, { message: 'both name the same owners' })
  const answers = await Promise.all([...Array(40).keys()].map(ask))
  expect(answers.filter((pair) => !agree(pair))).toEqual([])
  const owners = new Set(answers.flat().map((answer) => answer.trim().split(' ').at(-1)))
  expect([...owners].sort()).toEqual([survivor, other].sort())

  await stop(second)
  const orphans = [...answers.keys()].filter((key) => answers[key]?.[0]?.includes(other))
  const served = async (key: number): Promise<boolean> =>
    (await (await get(`${survivor}/key-${String(key)}`)).text()) ===
    `key-${String(key)} is served by ${survivor}\n`
  await until(async () => (await Promise.all(orphans.map(served))).every(Boolean), {
    message: 'the survivor has the keys of the other',
  })
  await stop(first)
})

test('routing-grpc: calls of one process reach the owner of their key, and it stops by itself', async () => {
  await using program = start('routing-grpc/main')
  const [, address = ''] = await program.prints(/(http:\S+) is registered/)
  await program.prints(new RegExp(`key 1 is served by ${address}`))
  await stop(program)
})

test('shutdown: a request under way is answered, though the process has left the cluster', async () => {
  await using program = start('shutdown')
  const [, address = ''] = await program.prints(/listens on (http:\S+)/)
  const response = await get(address) // its headers have arrived, not its body
  program.signal('SIGTERM')
  await program.prints(/deregistered/)
  expect(program.output).not.toContain('drained')
  expect(await response.text()).toBe('working … done\n')
  expect(await program.exited()).toBe(0)
  expect(program.output).toMatch(/deregistered\ndrained\nclosed\n$/)
})

test('health: ready while registered, and says how fresh the snapshot is', async () => {
  await using program = start('health')
  const [, port = ''] = await program.prints(/"port":(\d+)/)
  const response = await get(`http://127.0.0.1:${port}/health`)
  expect(response.status).toBe(200)
  const facts = { isReady: true, members: 1, token: 1, ageMs: expect.any(Number) as number }
  expect(await response.json()).toMatchObject(facts)
  await stop(program)
})

test('partitions: all have an owner, none has two, and a crash hands them over', async () => {
  await using first = start('partitions')
  await first.prints(/has 16 of 16 partitions/)
  await using second = start('partitions')
  const [, share = ''] = await second.prints(/has ([1-9]\d*) of 16 partitions/)
  await first.prints(new RegExp(`has ${String(16 - Number(share))} of 16 partitions`))
  first.signal('SIGKILL')
  await second.prints(/has 16 of 16 partitions/)
  await stop(second)
})

test('invoices: each number is used once, whatever dies', async () => {
  await using first = start('invoices')
  await using second = start('invoices')
  await first.prints(/wrote invoice 2026-/)
  await second.prints(/wrote invoice 2026-/)
  first.signal('SIGKILL')
  await using client = await adminClient(url)
  const taken = `select count(distinct member)::int as n from pgmembership.nonces where member is not null`
  await until(async () => (await client.query<{ n: number }>(taken)).rows[0]?.n === 1, {
    message: 'what the dead process had is free',
  })
  await stop(second)
  const { rows } = await client.query<object>(
    `select (select count(*) from invoices_example) = (select count(*) from pgmembership.nonces where used_at is not null) as all,
       (select count(distinct number) from invoices_example) = (select count(*) from invoices_example) as once,
       (select count(*)::int from pgmembership.nonces where member is not null) as taken`,
  )
  expect(rows).toEqual([{ all: true, once: true, taken: 0 }])
})

test('service: three processes route, say how they are, and have one leader; one that is killed is replaced in both', async () => {
  await using program = start('service/main')
  await program.prints(
    /(http:\S+) shows who is there[^]*(is ready[^]*){3}|(is ready[^]*){3}(http:\S+) shows who is there/,
  )
  const processes = [...program.output.matchAll(/process (\d+): (http:\S+) is ready/g)].map(
    ([, pid = '', address = '']) => ({ pid: Number(pid), address }),
  )
  expect(processes).toHaveLength(3)
  const ask = async (address: string, path: string): Promise<string> =>
    (await get(`${address}/${path}`)).text()
  const owners = (path: string): Promise<string[]> =>
    Promise.all(processes.map(({ address }) => ask(address, path)))
  await until(async () => new Set(await owners('some-key')).size === 1, {
    message: 'all name the same owner',
  })
  for (const { address } of processes) {
    const response = await get(`${address}/health`)
    expect(response.status).toBe(200)
    expect(await response.json()).toMatchObject({ isReady: true, mode: 'listening' })
  }
  const page = /(http:\S+) shows who is there/.exec(program.output)?.[1] ?? ''
  expect((await get(page)).status).toBe(200)

  const [, leader] = await program.prints(/process (\d+): led, and did job 2/)
  process.kill(Number(leader), 'SIGKILL')
  const isNext = new RegExp(`process (?!${leader ?? ''}:)\\d+: led, and did job`)
  await program.prints(isNext)
  const left = processes.filter(({ pid }) => pid !== Number(leader))
  await until(
    async () => new Set(await Promise.all(left.map(({ address }) => ask(address, 'k')))).size === 1,
    {
      message: 'the others agree',
    },
  )
  program.signal('SIGTERM')
  expect(await program.exited()).toBe(0)
  expect(program.output.match(/drained/g)).toHaveLength(2)
  await using client = await adminClient(url)
  const { rows } = await client.query<{ n: number }>('select n from service_jobs order by n')
  expect(rows.map(({ n }) => n)).toEqual(rows.map((_, n) => n + 1))
})
