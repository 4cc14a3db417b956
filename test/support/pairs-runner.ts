/** Runs one schedule after the other of test/pairs.test.ts, on connections that it keeps. */
import { expect } from 'vitest'
import { type AdminClient, adminClient, freshSchema } from './database.js'
import { pidOf } from './locks.js'
import { type ActName, ACTS } from './pairs-acts.js'
import { isRegistered, judge, type Outcome, setStage, type Stage, WORK } from './pairs-stage.js'
import { COMMIT, COMMIT_AND_HELD, endOrWait, HOLDS, type Wait } from './pairs-stops.js'
import { until } from './until.js'

export type Level = 'read committed' | 'repeatable read'

export interface Schedule {
  readonly first: ActName
  /** Where the first one stops: at what somebody holds, or at its commit, with or without somebody who holds something. */
  readonly at: string
  readonly second: ActName
  readonly level: Level
}

/** What comes again soon, whatever others do: it ends before the others go on. */
const IMPATIENT: readonly ActName[] = ['heartbeat', 'sweep_idle', 'sweep']

const FENCES: readonly ActName[] = ['fence', 'fence_claims', 'use_nonce']

/** A conflict between transactions: whoever has it tries again. */
const CONFLICTS = ['40001', '40P01', '55P03']

export class PairRunner {
  readonly #schema: string
  readonly #admin: AdminClient
  readonly #holder: AdminClient
  readonly #first: Actor
  readonly #second: Actor

  private constructor(schema: string, admin: AdminClient, holder: AdminClient, first: Actor, second: Actor) {
    this.#schema = schema
    this.#admin = admin
    this.#holder = holder
    this.#first = first
    this.#second = second
  }

  static async start(): Promise<PairRunner> {
    const schema = await freshSchema()
    const [admin, holder, first, second] = await Promise.all([
      boundedClient(),
      boundedClient(),
      Actor.start(),
      Actor.start(),
    ])
    await admin.query(WORK(schema))
    return new PairRunner(schema, admin, holder, first, second)
  }

  /** The lock_timeout that the functions of these acts set for themselves; null: none. */
  async bounds(acts: readonly ActName[]): Promise<(number | null)[]> {
    const { rows } = await this.#admin.query<{ bounds: (number | null)[] }>(
      `select array_agg((
         select max(extract(epoch from split_part(setting, '=', 2)::interval) * 1000)::integer
         from pg_proc, unnest(proconfig) setting
         where pronamespace = $1::regnamespace and proname in (name, name || '_as_owner') and setting like 'lock_timeout=%'
       ) order by n) as bounds
       from unnest($2::text[]) with ordinality act (name, n)`,
      [this.#schema, acts.map((act) => act.replace(/,.*$/, ''))],
    )
    return rows[0]?.bounds ?? []
  }

  async close(): Promise<void> {
    await Promise.all([this.#admin.end(), this.#holder.end(), this.#first.close(), this.#second.close()])
  }

  /** What the act waits for while somebody holds these, one after another. Each time it is taken back. */
  async alone(act: ActName, holds: readonly string[]): Promise<Map<string, Wait>> {
    const stage = await setStage(this.#admin, this.#schema, [act])
    const waits = new Map<string, Wait>()
    for (const hold of holds) {
      await this.#hold(stage, hold)
      const ended = this.#first.begin(act, stage, 'read committed')
      const wait = await endOrWait(this.#admin, this.#first.pid, ended)
      if (wait !== null) waits.set(hold, wait)
      await this.#holder.query('rollback')
      expectLegal(await inTime(ended))
      await this.#first.rollback()
    }
    return waits
  }

  /** How the act ends while somebody goes on holding what it waits for. */
  async outwait(act: ActName, hold: string, withinMs: number): Promise<Outcome> {
    const stage = await setStage(this.#admin, this.#schema, [act])
    await this.#hold(stage, hold)
    const outcome = await inTime(this.#first.run(act, stage, 'read committed'), withinMs)
    await this.#holder.query('rollback')
    expectLegal(outcome)
    return outcome
  }

  async together({ first, at, second, level }: Schedule): Promise<void> {
    const stage = await setStage(this.#admin, this.#schema, [first, second])
    const isAtCommit = at === COMMIT || at === COMMIT_AND_HELD
    let done: Outcome | undefined
    if (isAtCommit) done = await this.#first.begin(first, stage, level)
    if (at !== COMMIT) await this.#hold(stage, at)
    const one = done ? Promise.resolve(done) : this.#first.run(first, stage, level)
    const stopped = done ? null : await endOrWait(this.#admin, this.#first.pid, one)
    const two = this.#second.run(second, stage, level)
    const wait = await endOrWait(this.#admin, this.#second.pid, two)
    if (wait !== null) {
      const { waitsFor, alsoWaitsFor = [] } = ACTS[second]
      expect([...waitsFor, ...alsoWaitsFor], `promises 7 and 11: what ${second} waits for`).toContain(
        wait.thing,
      )
      if (
        stopped !== null &&
        first !== 'drop_cluster' &&
        stopped.thing !== 'clusters' &&
        wait.by.includes(this.#first.pid)
      ) {
        expect(wait.thing, `promise 11: ${first} waits, and keeps others from the cluster`).not.toBe(
          'clusters',
        )
      }
      if (IMPATIENT.includes(second)) await inTime(two)
    }
    if (done && done.code === undefined && FENCES.includes(first)) {
      expect(await isRegistered(this.#admin, stage, stage.subject), 'promise 13: who is fenced stays').toBe(
        true,
      )
    }
    await this.#holder.query('rollback')
    const ended = done ? this.#first.end(done) : one
    const outcomes = [await inTime(ended), await inTime(two)]
    outcomes.forEach(expectLegal)
    await judge(this.#admin, stage, outcomes)
  }

  async #hold(stage: Stage, hold: string): Promise<void> {
    const text = HOLDS[hold]
    if (text === undefined) throw new Error(`nobody can hold ${hold}`)
    await this.#holder.query('begin')
    await this.#holder.query(text(stage))
  }
}

/** A schedule that hangs fails. */
async function boundedClient(): Promise<AdminClient> {
  const client = await adminClient()
  await client.query(`set statement_timeout = '15s'`)
  return client
}

function expectLegal({ act, code, message }: Outcome): void {
  if (code === undefined || CONFLICTS.includes(code) || ACTS[act].refuses?.includes(code)) return
  expect.fail(`${act} failed: ${code} ${message}`)
}

/** A connection that does one act after another. */
class Actor {
  readonly pid: number
  readonly #client: AdminClient

  private constructor(client: AdminClient, pid: number) {
    this.#client = client
    this.pid = pid
  }

  static async start(): Promise<Actor> {
    const client = await boundedClient()
    await client.query(`set deadlock_timeout = '20ms'`)
    return new Actor(client, await pidOf(client))
  }

  close(): Promise<void> {
    return this.#client.end()
  }

  /** As the library calls it, or inside of a caller's transaction. */
  async run(act: ActName, stage: Stage, level: Level): Promise<Outcome> {
    if (level === 'read committed') return this.#do(act, stage)
    await this.#client.query(`begin isolation level ${level}`)
    const outcome = await this.#do(act, stage)
    return this.end(outcome)
  }

  async begin(act: ActName, stage: Stage, level: Level): Promise<Outcome> {
    await this.#client.query(`begin isolation level ${level}`)
    return this.#do(act, stage)
  }

  async rollback(): Promise<void> {
    await this.#client.query('rollback')
  }

  async end(outcome: Outcome): Promise<Outcome> {
    try {
      await this.#client.query(outcome.code === undefined ? 'commit' : 'rollback')
      return outcome
    } catch (error) {
      return { act: outcome.act, ...reasonOf(error) }
    }
  }

  async #do(act: ActName, stage: Stage): Promise<Outcome> {
    try {
      const { rows } = await this.#client.query<Record<string, unknown>>(ACTS[act].sql(stage))
      return { act, ...(rows[0] && { row: rows[0] }) }
    } catch (error) {
      return { act, ...reasonOf(error) }
    }
  }
}

function reasonOf(error: unknown): { code: string; message: string } {
  const { code = 'none', message } = error as { code?: string; message: string }
  return { code, message }
}

async function inTime(ended: Promise<Outcome>, withinMs = 10_000): Promise<Outcome> {
  let outcome: Outcome | undefined
  void ended.then((some) => (outcome = some))
  return until(() => outcome, { withinMs, message: 'an act that should go on has ended' })
}
