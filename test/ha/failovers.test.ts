/**
 * Six processes live through ten switchovers and failovers under load. Three come through HAProxy, three by a
 * connection function that asks Patroni. Prints how long each took.
 */
import { fileURLToPath } from 'node:url'
import { migrate } from 'pg-membership'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { adminClient, uniqueName } from '../support/database.js'
import { expectWholeLog, storyOf } from '../support/event-log.js'
import { until } from '../support/until.js'
import { type Command, Worker } from '../support/worker.js'
import { FailoverEngine, other } from './engine.js'

export interface MemberCommands {
  /** Through this URL; without it, to whom Patroni names. */
  join: Command<
    { readonly url?: string | undefined; readonly restUrls: readonly string[]; readonly name: string },
    { readonly id: string; readonly token: number }
  >
  token: Command<undefined, number | undefined>
  /** Stops changing its data, and writing to the ledger. */
  rest: Command<undefined, undefined>
  members: Command<
    undefined,
    readonly { readonly id: string; readonly token: number; readonly data: string }[]
  >
  close: Command<undefined, undefined>
}
export type MemberTold =
  | { readonly kind: 'committed'; readonly n: number; readonly at: number }
  | { readonly kind: 'lost'; readonly reason: string }
  | { readonly kind: 'error' | 'trouble' | 'uncaught'; readonly message: string }

type Member = Worker<MemberCommands, MemberTold>

const MAIN = fileURLToPath(new URL('member-main.js', import.meta.url))
/** A frozen leader is replaced after its time in etcd; then the processes have to find the new one. */
const PATIENCE_MS = 120_000

/** What happens, and who has to be well again before the next. */
const EVENTS = [
  'switchover',
  'the server crashes',
  'the machine crashes',
  'switchover',
  'the machine freezes',
] as const

let engine: FailoverEngine
beforeAll(async () => {
  engine = await FailoverEngine.start()
})
afterAll(() => engine[Symbol.asyncDispose]())

async function strike(event: (typeof EVENTS)[number]): Promise<() => void> {
  const primary = await engine.whole()
  const nothing = () => undefined
  switch (event) {
    case 'switchover':
      await engine.switchOver()
      return nothing
    case 'the server crashes':
      engine.signal(primary, 'server', 'SIGKILL')
      return nothing
    case 'the machine crashes':
      engine.signal(primary, 'node', 'SIGKILL')
      return () => {
        engine.startNode(primary)
      }
    case 'the machine freezes':
      engine.signal(primary, 'node', 'SIGSTOP')
      return () => {
        engine.signal(primary, 'node', 'SIGCONT')
      }
  }
}

test('promises 4, 7, 8, 13 and 16: through ten switchovers and failovers nobody alive is removed, and no fenced write is lost', async () => {
  await migrate({ connection: engine.url })
  await using setup = await adminClient(engine.url)
  await setup.query('create table ledger (n bigint, token bigint); create table counter (n bigint)')
  await setup.query('insert into counter values (0)')

  const name = uniqueName()
  const workers = Array.from({ length: 6 }, (): Member => new Worker(MAIN))
  try {
    const joined = []
    for (const [n, worker] of workers.entries()) {
      await worker.ready
      const url = n % 2 === 0 ? engine.url : undefined
      joined.push(await worker.ask('join', { url, restUrls: engine.restUrls, name }))
    }
    const committed = () => workers.flatMap((worker) => worker.toldOf('committed'))
    const last = () => Math.max(0, ...committed().map(({ n }) => n))

    for (const event of [...EVENTS, ...EVENTS]) {
      const primary = await engine.whole()
      const before = last()
      await until(() => last() > before + 20, { withinMs: PATIENCE_MS, message: `writes before: ${event}` })
      const lost = workers.map((worker) => worker.toldOf('lost').length)
      const since = Date.now()
      const heal = await strike(event)
      await until(async () => (await engine.primary()) === other(primary), {
        withinMs: PATIENCE_MS,
        message: () => `the other server leads after: ${event}\n${engine.log()}`,
      })
      const ledMs = Date.now() - since
      const then = Date.now()
      await until(() => committed().some(({ at }) => at > then), {
        withinMs: PATIENCE_MS,
        message: () => `fenced writes after: ${event}\n${engine.log()}`,
      })
      heal()
      await engine.whole()
      // Every process is back, with the registration that it began with.
      const tokens = await Promise.all(workers.map((worker) => worker.ask('token')))
      expect(tokens, event).toEqual(joined.map(({ token }) => token))
      const times = committed()
        .map(({ at }) => at)
        .filter((at) => at >= since - 1_000)
        .sort((a, b) => a - b)
      const gapMs = Math.max(...times.map((at, n) => at - (times[n - 1] ?? at)))
      const leases = workers.map((worker, n) => worker.toldOf('lost').length - (lost[n] ?? 0))
      const figures = [`new primary after ${String(ledMs)} ms`, `no fenced write for ${String(gapMs)} ms`]
      process.stdout.write(
        `${event}: ${figures.join(', ')}, leases that ended: ${String(leases.reduce((a, b) => a + b, 0))}\n`,
      )
    }

    for (const worker of workers) await worker.ask('rest')
    const shown = await Promise.all(workers.map((worker) => worker.ask('members')))
    for (const members of shown) {
      expect(members).toEqual(shown[0])
      expect(members.map(({ id, token }) => ({ id, token }))).toEqual(joined)
    }
    await using admin = await adminClient(engine.url)
    // Nobody has left. Data changed all the time.
    const story = await storyOf(admin, 'pgmembership', name)
    expect(story.filter((line) => !line.startsWith('updated'))).toEqual(joined.map(() => 'joined registered'))
    await expectWholeLog(admin, 'pgmembership', name)
    const { rows } = await admin.query<{ n: string; token: string }>('select n, token from ledger order by n')
    const ledger = rows.map(({ n }) => Number(n))
    expect(ledger).toEqual(ledger.map((_, n) => n + 1))
    const written = new Set(ledger)
    expect(
      committed()
        .map(({ n }) => n)
        .filter((n) => !written.has(n)),
      'told and lost',
    ).toEqual([])
    const tokens = rows.map(({ token }) => Number(token))
    expect(tokens).toEqual(tokens.toSorted((a, b) => a - b))
    for (const worker of workers) {
      expect(worker.toldOf('uncaught')).toEqual([])
      expect(worker.toldOf('trouble')).toEqual([])
      expect(worker.toldOf('error').map(({ message }) => message)).not.toContain('The database lost commits')
      expect(worker.toldOf('lost').filter(({ reason }) => reason !== 'unreachable')).toEqual([])
      await worker.ask('close')
    }
    process.stdout.write(
      `${String(ledger.length)} fenced writes, ${String(committed().length)} of them confirmed\n`,
    )
  } finally {
    await Promise.all(workers.map((worker) => worker.kill()))
  }
})
