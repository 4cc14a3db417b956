/**
 * Members that live in processes of their own, each watching the others, and the proof that a fault harmed
 * none of them. One fleet lives through all tests of a file; each test watches it again.
 */
import type { Member, PostgresClusterOptions } from 'pg-membership'
import { afterAll, expect } from 'vitest'
import { type AdminClient, uniqueName } from './database.js'
import { storyOf, tableOf } from './event-log.js'
import { until } from './until.js'
import { type Told, Worker } from './worker.js'

export const TTL_MS = 3_000
const HEARTBEAT_MS = 400
/** For a connection and a heartbeat, on a busy machine. */
const RECOVERY_MS = 1_200
/** How long the database may be out of reach before a lease may end; a twentieth of the ttl is its margin. */
const PATIENCE_MS = TTL_MS - HEARTBEAT_MS - TTL_MS / 20 - RECOVERY_MS

/** A process for each of these connections. To be called outside of tests: it lives until the file ends. */
export async function startFleet(schema: string, connections: readonly string[]): Promise<Fleet> {
  const name = uniqueName('fleet')
  const workers = connections.map(() => new Worker())
  afterAll(async () => {
    await Promise.all(workers.map((worker) => worker.kill()))
  })
  const ids = await Promise.all(
    workers.map(async (worker, n) => {
      await worker.ready
      const connection = connections[n] ?? ''
      const timing = { ttlMs: TTL_MS, heartbeatMs: HEARTBEAT_MS }
      await worker.ask('open', { connection, schema, name, ...timing } satisfies PostgresClusterOptions)
      const { id } = await worker.ask('join', {})
      await worker.ask('follow')
      return id
    }),
  )
  return { name, schema, workers, ids }
}

export interface Fleet {
  readonly name: string
  readonly schema: string
  readonly workers: readonly Worker[]
  /** The id of each worker's member. */
  readonly ids: readonly string[]
}

/** Resolves when all are well, and as if sweeping had gone on for a day: silence for a ttl is enough from now on. */
export async function watchOver(fleet: Fleet, admin: AdminClient): Promise<Watch> {
  const { name, schema, workers } = fleet
  await Promise.all(workers.map((worker) => worker.ask('nextLease', 0)))
  const { members } = await tableOf(admin, schema, name)
  await until(() => workers.every((worker) => lastSeenBy(worker) === tokensOf(members)), {
    message: 'all see all',
  })
  await until(
    async () => {
      const { rowCount } = await admin.query(
        `update ${schema}.sweeps set resumed_at = swept_at - interval '1 day'
         where cluster = $1 and swept_at > clock_timestamp() - pace`,
        [name],
      )
      return rowCount === 1
    },
    { message: 'sweeps go on' },
  )
  return new Watch(fleet, members, await storyOf(admin, schema, name))
}

export interface Excuses {
  /** How long the database was out of reach: leases may end that had to bear more than they can. */
  readonly unreachableMs?: number
  /** Changes that the test made, in any order. */
  readonly changes?: readonly string[]
}

/** What a fleet was like when the watch began, and what has become of it since. */
export class Watch {
  readonly #fleet: Fleet
  readonly #members: readonly Member[]
  readonly #story: readonly string[]
  readonly #told: readonly number[]

  constructor(fleet: Fleet, members: readonly Member[], story: readonly string[]) {
    this.#fleet = fleet
    this.#members = members
    this.#story = story
    this.#told = fleet.workers.map(({ told }) => told.length)
  }

  /** All live on, nobody was removed, nobody saw anybody gone, no lease ended without an excuse. */
  async expectUnharmed(admin: AdminClient, { unreachableMs = 0, changes = [] }: Excuses = {}): Promise<void> {
    const { name, schema, workers, ids } = this.#fleet
    await allBeat(this.#fleet, admin)
    const story = (await storyOf(admin, schema, name)).slice(this.#story.length)
    expect(story.toSorted()).toEqual(changes.toSorted())
    const { members } = await tableOf(admin, schema, name)
    expect(tokensOf(members)).toBe(tokensOf(this.#members))
    for (const [n, worker] of workers.entries()) {
      const { token } = this.#members.find(({ id }) => id === ids[n]) ?? {}
      expect(await worker.ask('nextLease', 0)).toBe(token)
      const ends = this.#since(n, 'lost').map(({ reason }) => reason)
      const outage = `leases that ended in ${Math.round(unreachableMs)} ms without the database`
      if (unreachableMs < PATIENCE_MS) expect(ends, outage).toEqual([])
      else expect(ends.filter((reason) => reason !== 'unreachable')).toEqual([])
      for (const { tokens } of this.#since(n, 'watched')) {
        expect(tokens).toEqual(expect.arrayContaining(this.#members.map((member) => member.token)))
      }
    }
    expectSilence(workers)
  }

  #since<K extends Told['kind']>(n: number, kind: K): Extract<Told, { readonly kind: K }>[] {
    const [worker, before = 0] = [this.#fleet.workers[n], this.#told[n]]
    return worker?.toldOf(kind).filter((told) => worker.told.indexOf(told) >= before) ?? []
  }
}

/** Promise 12, for each process: nothing thrown, nothing printed. */
export function expectSilence(workers: readonly Worker[]): void {
  for (const worker of workers) {
    expect(worker.toldOf('uncaught')).toEqual([])
    expect(worker.toldOf('trouble')).toEqual([])
    expect(worker.output).toBe('')
  }
}

/** Each member has sent a heartbeat that was not held up, and somebody has swept, since this was called. */
export async function allBeat({ name, schema, ids }: Fleet, admin: AdminClient): Promise<void> {
  const { rows } = await admin.query<{ at: string }>('select clock_timestamp()::text as at')
  await until(
    async () => {
      const { rowCount } = await admin.query(
        `select from ${schema}.sweeps s where s.cluster = $1 and s.swept_at > $2 and $4 = (
           select count(*) from ${schema}.members m where m.id = any ($3) and m.heartbeat_at > $2
         )`,
        [name, rows[0]?.at, ids, ids.length],
      )
      return rowCount === 1
    },
    { withinMs: 20_000, message: 'all send heartbeats, and somebody sweeps' },
  )
}

/** Somebody has swept when this much time had passed, or later. */
export async function sweptAfter({ name, schema }: Fleet, admin: AdminClient, ms: number): Promise<void> {
  const { rows } = await admin.query<{ at: string }>(
    `select (clock_timestamp() + $1 * interval '1 ms')::text as at`,
    [ms],
  )
  await until(
    async () => {
      const swept = `select from ${schema}.sweeps where cluster = $1 and swept_at > $2`
      return (await admin.query(swept, [name, rows[0]?.at])).rowCount === 1
    },
    { message: `a sweep in ${ms} ms` },
  )
}

/** Time itself, where nothing else can be waited for. */
export async function elapsed(sinceMs: number, ms: number): Promise<void> {
  await until(() => performance.now() >= sinceMs + ms, { withinMs: ms + 10_000, message: `${ms} ms` })
}

function lastSeenBy(worker: Worker): string | undefined {
  return worker.toldOf('watched').at(-1)?.tokens.join()
}

function tokensOf(members: readonly Member[]): string {
  return members.map(({ token }) => token).join()
}
