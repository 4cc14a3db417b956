/**
 * Ways to give each key an owner, beside one another: npx tsx bench/ring-choices.ts. It takes some minutes, and needs no
 * database. Fairness and movement are exact and the same everywhere; times are CPU time of this process, so compare
 * them as ratios. docs/decisions/14-draws-not-points.md says what follows from it.
 */
import { hash } from 'node:crypto'
import { cpus } from 'node:os'
import { Ring } from 'pg-membership/ring'
import { cpuUs } from './arms/ring.js'
import { digits } from './lib/stats.js'

interface Weighed {
  readonly id: string
  readonly weight: number
}
/** Who owns a key, as an index of the list that it was made from. */
type Owner = (key: string) => number
type Make = (members: readonly Weighed[]) => Owner

/** Words of 32 bits of the SHA-256. */
function words(text: string): number[] {
  const digest = hash('sha256', text, 'hex')
  return Array.from({ length: 8 }, (_, n) => parseInt(digest.slice(8 * n, 8 * n + 8), 16))
}

/** Consistent hashing with points on a circle, `each` for a weight of 1. */
function points(each: number): Make {
  return (members) => {
    const circle = members
      .flatMap(({ id, weight }, member) =>
        Array.from({ length: Math.ceil((each * weight) / 8) }, (_, n) => words(`${id} ${n}`))
          .flat()
          .map((at) => ({ at, member })),
      )
      .sort((a, b) => a.at - b.at)
    const places = Uint32Array.from(circle, ({ at }) => at)
    return (key) => {
      const [at = 0] = words(key)
      let [low, high] = [0, places.length]
      while (low < high) {
        const middle = (low + high) >>> 1
        if ((places[middle] ?? 0) < at) low = middle + 1
        else high = middle
      }
      return circle[low % circle.length]?.member ?? -1
    }
  }
}

/** Weighted rendezvous, with a SHA-256 for each pair of a member and a key. */
const rendezvous: Make = (members) => (key) => {
  let [best, owner] = [-Infinity, -1]
  for (const [n, { id, weight }] of members.entries()) {
    const [draw = 0] = words(`${id} ${key}`)
    const score = -weight / Math.log((draw + 0.5) / 2 ** 32)
    if (score > best) [best, owner] = [score, n]
  }
  return owner
}

/** Google's Maglev: each member fills a table of 65,537 slots in an order of its own, by turns. */
const maglev: Make = (members) => {
  const size = 65_537
  const table = new Int32Array(size).fill(-1)
  const most = Math.max(...members.map(({ weight }) => weight))
  const turns = members.map(({ id, weight }) => {
    const [offset = 0, skip = 0] = words(id)
    return { at: offset % size, skip: (skip % (size - 1)) + 1, weight: weight / most, credit: 0 }
  })
  // In the order of ids, so that the order of the list makes no difference.
  const order = [...members.keys()].sort((a, b) => ((members[a]?.id ?? '') < (members[b]?.id ?? '') ? -1 : 1))
  for (let filled = 0; filled < size;) {
    for (const n of order) {
      const turn = turns[n]
      if (turn === undefined || filled === size || (turn.credit += turn.weight) < 1) continue
      turn.credit -= 1
      while (table[turn.at] !== -1) turn.at = (turn.at + turn.skip) % size
      table[turn.at] = n
      filled += 1
    }
  }
  return (key) => table[(words(key)[0] ?? 0) % size] ?? -1
}

/** This package's. */
const draws: Make = (members) => {
  const ring = new Ring(members, { weight: ({ weight }) => weight })
  const indexes = new Map(members.map((member, n) => [member, n]))
  return (key) => indexes.get(ring.owner(key) ?? { id: '', weight: 0 }) ?? -1
}

const CHOICES: Readonly<Record<string, Make>> = {
  'points, 160 each': points(160),
  'points, 2,000 each': points(2_000),
  'rendezvous, a SHA-256 a pair': rendezvous,
  'maglev, 65,537 slots': maglev,
  'draws (pg-membership/ring)': draws,
}

const KEYS = Array.from({ length: 100_000 }, (_, n) => `key ${n}`)
const SETS = 5

function list(count: number, set = 0, weights: readonly number[] = [1]): Weighed[] {
  return Array.from({ length: count }, (_, n) => ({
    id: `set ${set}, member ${n}`,
    weight: weights[n % weights.length] ?? 1,
  }))
}

function shares(owner: Owner, count: number): number[] {
  const owned = Array.from({ length: count }, () => 0)
  for (const key of KEYS) {
    const n = owner(key)
    owned[n] = (owned[n] ?? 0) + 1
  }
  return owned.map((keys) => keys / KEYS.length)
}

console.log(`${cpus().length} cores (${cpus()[0]?.model ?? ''}), Node ${process.version}\n`)
for (const [name, make] of Object.entries(CHOICES)) {
  const spreads = Array.from({ length: SETS }, (_, set) => {
    const all = shares(make(list(10, set)), 10)
    return 10 * (Math.max(...all) - Math.min(...all))
  })
  const weights = [0.25, 0.5, 1, 3.25, 5]
  const errors = shares(make(list(5, 0, weights)), 5).map((share, n) =>
    Math.abs(share / ((weights[n] ?? 1) / 10) - 1),
  )
  const [before, after] = [make(list(10)), make(list(10).slice(0, 9))]
  const moved = KEYS.filter((key) => before(key) !== 9 && before(key) !== after(key)).length / KEYS.length
  const half = make(list(10).map((member, n) => ({ ...member, weight: n === 9 ? 0.5 : 1 })))
  const stray = KEYS.filter((key) => before(key) !== 9 && half(key) !== before(key)).length / KEYS.length
  const [few, many] = [make(list(10)), make(list(1_000))]
  const lines = {
    'ten equal members: (most - least) / mean': `${digits(100 * Math.max(...spreads))} % at worst of ${SETS}`,
    'weights 0.25 to 5: worst share': `${digits(100 * Math.max(...errors))} % off`,
    'one of ten leaves: other keys that move': `${digits(100 * moved)} %`,
    'one of ten gets half its weight: other keys move': `${digits(100 * stray)} %`,
    'made of 1,000 members': `${digits(cpuUs(() => make(list(1_000))) / 1_000)} ms`,
    'owner among 10': `${digits(cpuUs((n) => few(`${n}`)))} us`,
    'owner among 1,000': `${digits(cpuUs((n) => many(`${n}`)))} us`,
  }
  console.log(name)
  for (const [what, figure] of Object.entries(lines)) console.log(`  ${what.padEnd(52)}${figure}`)
}
