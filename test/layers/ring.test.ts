/** pg-membership/ring: pure, so that everything here is about lists of members and keys. */
import fc from 'fast-check'
import { OptionError } from 'pg-membership'
import { Ring } from 'pg-membership/ring'
import { expect, test } from 'vitest'
import { textOf } from '../support/documents.js'

interface Named {
  readonly id: string
  readonly weight?: number
  readonly host?: string
}

const WEIGHED = { weight: ({ weight = 1 }: Named) => weight }

function named(count: number): Named[] {
  return Array.from({ length: count }, (_, n) => ({ id: `member ${n}` }))
}

function keys(count: number): string[] {
  return Array.from({ length: count }, (_, n) => `key ${n}`)
}

/** How many of the keys each member owns. */
function counts(ring: Ring<Named>, asked: readonly string[]): Map<string, number> {
  const owned = new Map<string, number>()
  for (const key of asked) {
    const id = ring.owner(key)?.id ?? 'nobody'
    owned.set(id, (owned.get(id) ?? 0) + 1)
  }
  return owned
}

/** Also weights that are far apart, and those at the ends of what a number can be. */
const weights = fc.oneof(
  fc.constantFrom(0, 1, 1, 1, 2, 0.5, 1e-300, 5e-324, Number.MAX_VALUE),
  fc.double({ min: 0, max: 1e6, noNaN: true }),
)
const lists = fc.uniqueArray(
  fc.record({ id: fc.oneof(fc.uuid(), fc.string({ unit: 'grapheme' })), weight: weights }),
  { maxLength: 12, selector: ({ id }) => id.toWellFormed() },
)
const someKeys = fc.array(fc.oneof(fc.string({ unit: 'binary' }), fc.uuid()), { minLength: 1, maxLength: 20 })

test('the test vectors of the guide', () => {
  const [, table = ''] =
    /<!-- vectors -->([^]+?)<!-- \/vectors -->/.exec(textOf('docs/guides/routing.md')) ?? []
  const rows = [...table.matchAll(/^\| `(.*?)` +\| (.+?) +\| (.+?) +\|$/gm)]
  const trio = ['alpha', 'beta', 'gamma'].map((id) => ({ id }))
  const weighed = new Ring(trio, { weight: ({ id }) => ({ alpha: 3, beta: 1.5, gamma: 0.25 })[id] ?? 0 })
  expect(rows.length).toBeGreaterThanOrEqual(8)
  for (const [, key = '', equal, unequal] of rows) {
    const names = (ring: Ring<{ id: string }>): string =>
      ring
        .owners(key, 3)
        .map(({ id }) => id)
        .join(', ')
    expect([key, names(new Ring(trio)), names(weighed)]).toEqual([key, equal, unequal])
  }
})

test('the order of the members makes no difference', () => {
  fc.assert(
    fc.property(lists, someKeys, fc.infiniteStream(fc.nat()), (members, asked, chance) => {
      const order = new Map(members.map((member) => [member, chance.next().value]))
      const shuffled = members.toSorted((a, b) => (order.get(a) ?? 0) - (order.get(b) ?? 0))
      const [one, other] = [new Ring(members, WEIGHED), new Ring(new Set(shuffled), WEIGHED)]
      for (const key of asked) expect(other.owners(key, 12)).toEqual(one.owners(key, 12))
    }),
  )
})

test('only the keys of the member that leaves move, each to its next owner', () => {
  fc.assert(
    fc.property(lists, someKeys, fc.nat(), (members, asked, at) => {
      const gone = members[at % Math.max(1, members.length)]
      const [before, after] = [members, members.filter((member) => member !== gone)].map(
        (list) => new Ring(list, WEIGHED),
      )
      for (const key of asked) {
        const owners = before?.owners(key, Infinity) ?? []
        expect(after?.owners(key, Infinity)).toEqual(owners.filter((owner) => owner !== gone))
      }
    }),
  )
})

test('a heavier weight takes keys from others, and moves no other key', () => {
  fc.assert(
    fc.property(lists, someKeys, fc.double({ min: 1, max: 1e6, noNaN: true }), (members, asked, times) => {
      const [first] = members
      const heavier = (member: Named): number =>
        Math.min(Number.MAX_VALUE, (member.weight ?? 1) * (member === first ? times : 1))
      const [before, after] = [new Ring(members, WEIGHED), new Ring(members, { weight: heavier })]
      for (const key of asked) {
        const owner = after.owner(key)
        if (owner !== first) expect(owner).toBe(before.owner(key))
      }
    }),
  )
})

test('owners are distinct, owner() first, as many as were asked for or as there are', () => {
  fc.assert(
    fc.property(lists, someKeys, fc.nat(14), (members, asked, count) => {
      const ring = new Ring(members, WEIGHED)
      expect(ring.size).toBe(members.filter(({ weight }) => weight > 0).length)
      for (const key of asked) {
        const owners = ring.owners(key, count)
        expect(new Set(owners).size).toBe(Math.min(count, ring.size))
        expect(owners.length).toBe(Math.min(count, ring.size))
        if (count > 0) expect(owners[0]).toBe(ring.owner(key))
        expect(ring.owners(key, Infinity).slice(0, count)).toEqual(owners)
      }
    }),
  )
})

test('ten equal members own numbers of 100,000 keys that are within a tenth of one another', () => {
  const owned = [...counts(new Ring(named(10)), keys(100_000)).values()]
  expect(owned).toHaveLength(10)
  expect(Math.max(...owned) / Math.min(...owned)).toBeLessThan(1.1)
})

test('shares are those of the weights, fractions too; a weight of 0 owns nothing', () => {
  const members = [0, 0.25, 0.5, 1, 3.25, 5].map((weight) => ({ id: `weight ${weight}`, weight }))
  const owned = counts(new Ring(members, WEIGHED), keys(100_000))
  expect(owned.get('weight 0')).toBeUndefined()
  for (const { id, weight } of members.slice(1)) {
    expect(Math.abs((owned.get(id) ?? 0) / (weight * 10_000) - 1), id).toBeLessThan(0.05)
  }
})

test('the keys of a member that leaves are shared by all that stay', () => {
  const before = new Ring(named(10))
  const orphans = keys(50_000).filter((key) => before.owner(key)?.id === 'member 3')
  const heirs = [...counts(new Ring(named(10).filter(({ id }) => id !== 'member 3')), orphans).values()]
  expect(heirs).toHaveLength(9)
  expect(Math.max(...heirs) / Math.min(...heirs)).toBeLessThan(1.35)
})

test('a member that comes back with another id has its keys again, by a key that survives a restart', () => {
  const options = { key: ({ host = '' }: Named) => host }
  const before = new Ring([{ id: '1', host: 'a' }, { id: '2', host: 'b' }], options) // prettier-ignore
  const after = new Ring([{ id: '2', host: 'b' }, { id: '3', host: 'a' }], options) // prettier-ignore
  for (const key of keys(100)) expect(after.owner(key)?.host).toBe(before.owner(key)?.host)
})

test('of members with one key, the highest id that has a weight takes the place', () => {
  const options = { key: ({ host = '' }: Named) => host, ...WEIGHED }
  const old = { id: '1', host: 'a' }
  const draining = { id: '3', host: 'a', weight: 0 }
  const present = { id: '2', host: 'a' }
  for (const list of [
    [old, present, draining],
    [draining, present, old],
    [present, draining, old],
  ]) {
    // prettier-ignore
    const ring = new Ring(list, options)
    expect([ring.size, ring.owner('x'), ring.owners('x', 3)]).toEqual([1, present, [present]])
  }
})

test('nobody owns anything where there are no members, or all weights are 0', () => {
  for (const ring of [
    new Ring<Named>([]),
    new Ring(named(3), { weight: () => 0 }),
    new Ring(named(1), { weight: () => -0 }),
  ]) {
    // prettier-ignore
    expect([ring.size, ring.owner('x'), ring.owners('x', 2)]).toEqual([0, undefined, []])
  }
})

test.each([-1, -1e-300, NaN, Infinity, -Infinity])('the weight %d is refused with a RangeError', (weight) => {
  expect(() => new Ring(named(1), { weight: () => weight })).toThrow(RangeError)
})

test('what is not a ring of members is refused, and says what is wrong', () => {
  const make = (members: unknown, options?: unknown) => () => new Ring(members as Named[], options as object)
  for (const members of [undefined, null, 1, [null], [undefined], [{}], [{ id: 7 }], 'text', {}]) {
    expect(make(members)).toThrow(TypeError)
  }
  for (const weight of ['2', undefined, null, 2n, {}]) {
    expect(make(named(1), { weight: () => weight })).toThrow(/weight must be a number/)
  }
  expect(make(named(1), { key: () => undefined })).toThrow(/key of a member must be a string/)
  for (const options of [null, 'text', [], { weight: 1 }, { key: 'id' }, { key: null }, { hash: () => 1 }]) {
    expect(make(named(1), options)).toThrow(OptionError)
  }
  expect(make(named(1), { wieght: () => 1 })).toThrow(/Did you mean 'weight'/)
  const broken = new Error('a getter that throws')
  const thrower = {
    get id(): string {
      throw broken
    },
  }
  expect(make([thrower])).toThrow(broken)
})

test('bad questions are refused, odd ones are answered', () => {
  const ring = new Ring(named(5))
  for (const key of [undefined, null, 1, {}, Buffer.from('key'), ['key']]) {
    expect(() => ring.owner(key as string)).toThrow(TypeError)
    expect(() => ring.owners(key as string, 1)).toThrow(TypeError)
    expect(() => new Ring([]).owner(key as string)).toThrow(TypeError)
  }
  for (const count of [-1, 1.5, NaN, '1', undefined]) {
    expect(() => ring.owners('x', count as number)).toThrow(RangeError)
  }
  expect(ring.owners('x', 0)).toEqual([])
  for (const key of ['', '\0', '\ud800', '\u{1f600}', 'x'.repeat(1 << 20)]) {
    expect(ring.owner(key)).toBe(new Ring(named(5).reverse()).owner(key) && ring.owners(key, 1)[0])
  }
})

test('keys of members that differ only by lone surrogates share one place, so that none is idle unseen', () => {
  const ring = new Ring([{ id: '\ud800' }, { id: '\udfff' }])
  expect(ring.size).toBe(1)
})

test('later changes of a list or an object do not reach a ring', () => {
  const members = named(3)
  const options = { weight: () => 1 }
  const ring = new Ring(members, options)
  const owners = keys(20).map((key) => ring.owner(key))
  members.length = 0
  options.weight = () => 0
  expect(keys(20).map((key) => ring.owner(key))).toEqual(owners)
})

test('a thousand members make a ring in well under a second, and owners are found in microseconds', () => {
  const members = named(1_000)
  const cpuMs = (work: () => void): number => {
    const started = process.cpuUsage()
    work()
    const { user, system } = process.cpuUsage(started)
    return (user + system) / 1_000
  }
  let ring = new Ring(members)
  expect(cpuMs(() => (ring = new Ring(members)))).toBeLessThan(200)
  expect(cpuMs(() => keys(2_000).forEach((key) => ring.owner(key))) / 2_000).toBeLessThan(0.1)
})
