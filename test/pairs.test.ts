/**
 * Every two things that write to a cluster, at the same time: one is stopped at each of its waits, or before its
 * commit, and the other runs meanwhile. Judged are who waits for what (support/pairs-acts.ts has the table), for how
 * long, and the promises when both have ended.
 *
 * `npm test` tries heartbeats, sweeps and joins beside everything, and some of the other pairs: PAIRS_SEED=… repeats these.
 * LONG=yes tries all.
 */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Chance } from './support/chance.js'
import { type ActName, ACTS, type Thing } from './support/pairs-acts.js'
import { type Level, PairRunner, type Schedule } from './support/pairs-runner.js'
import { COMMIT, COMMIT_AND_HELD, HOLDS } from './support/pairs-stops.js'
import { size } from './support/size.js'

const NAMES = Object.keys(ACTS) as ActName[]
/** What others feel at once when it waits: tried beside everything. */
const FREQUENT: readonly ActName[] = ['heartbeat', 'sweep_idle', 'sweep', 'register']
const SEED = Number(process.env.PAIRS_SEED ?? Math.floor(Math.random() * 2 ** 31))
const SHARE = size(1, 0.03)
/** Those that give up later are watched until they do where there is time. */
const LONGEST_MS = size(10_000, 500)
const LANES = 4
const MAX_BROKEN = 30

const lanes: PairRunner[] = []
beforeAll(async () => {
  lanes.push(...(await Promise.all(Array.from({ length: LANES }, () => PairRunner.start()))))
})
afterAll(() => Promise.all(lanes.map((lane) => lane.close())))

/** Each lane has a schema and connections of its own. Returns what is broken, one line for each. */
async function inLanes<T>(
  items: readonly T[],
  nameOf: (item: T) => string,
  run: (lane: PairRunner, item: T) => Promise<void>,
): Promise<string[]> {
  const left = [...items].reverse()
  const broken: string[] = []
  await Promise.all(
    lanes.map(async (_, n) => {
      for (let item = left.pop(); item !== undefined; item = left.pop()) {
        const lane = lanes[n]
        if (lane === undefined || broken.length > MAX_BROKEN) break
        try {
          await run(lane, item)
        } catch (error) {
          broken.push(`${nameOf(item)}: ${(error as Error).message.split('\n')[0] ?? ''}`)
          // Nobody knows what goes on there.
          await lane.close()
          lanes[n] = await PairRunner.start()
        }
      }
    }),
  )
  return broken.toSorted()
}

const none = (): Map<ActName, Map<Thing, string>> =>
  new Map(NAMES.map((act) => [act, new Map<Thing, string>()]))
/** What each waits for, and what has to be held for that. */
let waits: ReturnType<typeof none> | undefined

async function findWaits(): Promise<ReturnType<typeof none>> {
  if (waits !== undefined) return waits
  const found = none()
  const broken = await inLanes(
    NAMES,
    (act) => act,
    async (lane, act) => {
      for (const [hold, { thing }] of await lane.alone(act, Object.keys(HOLDS))) {
        if (!found.get(act)?.has(thing)) found.get(act)?.set(thing, hold)
      }
    },
  )
  expect(broken).toEqual([])
  return (waits = found)
}

test('promises 7 and 11: each waits for what the table says, and for nothing else', async () => {
  const found = await findWaits()
  const tableOf = (thingsOf: (act: ActName) => Iterable<Thing>): Record<string, Thing[]> =>
    Object.fromEntries(NAMES.map((act) => [act, [...thingsOf(act)].toSorted()]))
  expect(tableOf((act) => found.get(act)?.keys() ?? [])).toEqual(tableOf((act) => ACTS[act].waitsFor))
}, 60_000)

test('promise 11: nobody waits longer than the table says', async () => {
  const bounded = NAMES.filter((act) => !act.endsWith('by hand'))
  expect(
    Object.fromEntries((await lanes[0]?.bounds(bounded))?.map((bound, n) => [bounded[n], bound]) ?? []),
  ).toEqual(Object.fromEntries(bounded.map((act) => [act, ACTS[act].boundMs ?? null])))
  const found = await findWaits()
  const waiting = NAMES.flatMap((act) => {
    const { boundMs = Infinity } = ACTS[act]
    if (boundMs > LONGEST_MS) return []
    return [...(found.get(act)?.values() ?? [])].map((hold) => ({ act, hold, boundMs }))
  })
  const broken = await inLanes(
    waiting,
    ({ act, hold }) => `${act}, stopped at ${hold}`,
    async (lane, { act, hold, boundMs }) => {
      // What others hold back is tried again, one by one.
      await lane.outwait(act, hold, 2 * boundMs + 3_000)
    },
  )
  expect(broken).toEqual([])
}, 120_000)

test.each<Level>(['read committed', 'repeatable read'])(
  'promises 2, 4, 6 to 8, 11, 13 and 16 to 20: whatever two do at the same time, %s',
  async (level) => {
    const found = await findWaits()
    const chance = new Chance(SEED)
    const all = NAMES.flatMap((first) =>
      [...(found.get(first)?.values() ?? []), COMMIT, COMMIT_AND_HELD].flatMap((at) =>
        NAMES.map((second): Schedule => ({ first, at, second, level })),
      ),
    )
    const often = level === 'read committed' ? 1 : size(1, 0.2)
    const some = all.filter(({ second }) => chance.next() < (FREQUENT.includes(second) ? often : SHARE))
    const broken = await inLanes(
      some,
      ({ first, at, second }) => `${first}, stopped at ${at}, and ${second}`,
      (lane, schedule) => lane.together(schedule),
    )
    expect(broken, `PAIRS_SEED=${SEED}`).toEqual([])
  },
  size(900_000, 120_000),
)
