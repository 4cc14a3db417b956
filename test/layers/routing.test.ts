/** pg-membership/routing, on lists; on clusters: test/conformance/routing.ts. */
import { spawnSync } from 'node:child_process'
import { OptionError } from 'pg-membership'
import { MemoryCluster } from 'pg-membership/memory'
import { Ring } from 'pg-membership/ring'
import { Router } from 'pg-membership/routing'
import { expect, test } from 'vitest'
import { until } from '../support/until.js'

interface One {
  readonly id: string
  readonly token?: number
  readonly weight?: number
}

const WEIGHED = { weight: ({ weight = 1 }: One) => weight }
const KEYS = Array.from({ length: 200 }, (_, n) => `key ${n}`)

/** A source of snapshots that a test sets by hand. */
class Source {
  snapshot: { readonly members: readonly One[] } | undefined

  constructor(members?: readonly One[]) {
    if (members) this.show(members)
  }

  show(members: readonly One[]): void {
    this.snapshot = { members }
  }
}

function members(count: number): One[] {
  return Array.from({ length: count }, (_, n) => ({ id: `member ${n}`, token: n + 1 }))
}

/** Of all owners that these keys have. */
function ownersOf(router: Router<One>): Set<One | undefined> {
  return new Set(KEYS.map((key) => router.owner(key)))
}

test('answers are those of a ring of the newest snapshot', () => {
  const source = new Source()
  const router = new Router(source)
  expect([router.owner('x'), router.owners('x', 3), router.pick()]).toEqual([undefined, [], undefined])
  for (const count of [3, 5, 0, 4]) {
    source.show(members(count))
    const ring = new Ring(source.snapshot?.members ?? [])
    for (const key of KEYS.slice(0, 20)) {
      expect(router.owner(key)).toBe(ring.owner(key))
      expect(router.owners(key, 3)).toEqual(ring.owners(key, 3))
    }
  }
  source.snapshot = undefined
  expect([router.owner('x'), router.pick()]).toEqual([undefined, undefined])
})

test('a ring is made once for each snapshot, at the first question', () => {
  const source = new Source(members(10))
  let asked = 0
  const router = new Router(source, { key: ({ id }) => (asked++, id) })
  expect(asked).toBe(0)
  for (const key of KEYS) {
    router.owner(key)
    router.owners(key, 2)
    router.pick()
  }
  expect(asked).toBe(10)
  source.show(members(11))
  source.show(members(12))
  for (const key of KEYS) router.owner(key)
  expect(asked).toBe(22)
})

test('keys of an ejected member go to their next owners, and no other key moves', () => {
  const source = new Source(members(5))
  const router = new Router(source)
  const ring = new Ring(members(5))
  const [failed = { id: '' }] = source.snapshot?.members ?? []
  router.eject(failed, { forMs: 60_000 })
  for (const key of KEYS) {
    const [first, second] = ring.owners(key, 2).map(({ id }) => id)
    expect(router.owner(key)?.id).toBe(first === failed.id ? second : first)
    expect(router.owners(key, 9).at(-1), 'the ejected come last').toBe(failed)
    expect(router.owners(key, 9)).toHaveLength(5)
    expect(router.owners(key, 3)).not.toContain(failed)
  }
})

test('an ejection is over when its time is, and all keys are where they were', async () => {
  const source = new Source(members(5))
  const router = new Router(source)
  const before = KEYS.map((key) => router.owner(key))
  const [failed = { id: '' }] = source.snapshot?.members ?? []
  router.eject(failed, { forMs: 50 })
  await until(() => ownersOf(router).has(failed), { message: 'its time is over' })
  expect(KEYS.map((key) => router.owner(key))).toEqual(before)
})

test('when all are ejected, all are asked', () => {
  const all = members(3)
  const router = new Router(new Source(all))
  for (const one of all) router.eject(one, { forMs: 60_000 })
  const ring = new Ring(all)
  for (const key of KEYS) expect(router.owners(key, 3)).toEqual(ring.owners(key, 3))
  expect(new Set(KEYS.map(() => router.pick())).size).toBe(3)
})

test('a draining member gets nothing, not even while all others are ejected', () => {
  const [draining, other] = [{ id: 'draining', weight: 0 }, { id: 'other' }]
  const router = new Router<One>(new Source([draining, other]), WEIGHED)
  router.eject(other, { forMs: 60_000 })
  expect(ownersOf(router)).toEqual(new Set([other]))
  expect(new Set(KEYS.map(() => router.pick()))).toEqual(new Set([other]))
})

test('an ejection ends with the registration: by a snapshot without it, or with a newer one', () => {
  const all = members(3)
  const [failed = { id: '' }, ...others] = all
  const source = new Source(all)
  const router = new Router(source)
  const eject = (): void => {
    router.eject(failed, { forMs: Infinity })
    expect(ownersOf(router).has(failed)).toBe(false)
  }
  eject()
  source.show(others)
  router.owner('x')
  source.show(all)
  expect(ownersOf(router).has(failed), 'it left and came back').toBe(true)
  eject()
  const again = { ...failed, token: 99 }
  source.show([...others, again])
  expect(ownersOf(router).has(again), 'it came back between two snapshots').toBe(true)
  router.eject(failed, { forMs: Infinity })
  expect(ownersOf(router).has(again), 'the older registration is nothing to eject').toBe(true)
})

test('a change of data does not end an ejection, and a later call does not shorten it', () => {
  const [failed = { id: '' }, ...others] = members(2)
  const source = new Source([failed, ...others])
  const router = new Router(source, WEIGHED)
  router.eject(failed, { forMs: 60_000 })
  router.eject(failed, { forMs: 0 })
  const changed = { ...failed, weight: 2 }
  source.show([changed, ...others])
  expect(ownersOf(router)).toEqual(new Set(others))
})

test('pick is random by weight', () => {
  const router = new Router<One>(
    new Source([
      { id: 'a', weight: 1 },
      { id: 'none', weight: 0 },
      { id: 'b', weight: 3 },
    ]),
    WEIGHED,
  )
  const picked = { a: 0, b: 0, none: 0 }
  for (let n = 0; n < 20_000; n++) picked[router.pick()?.id as keyof typeof picked]++
  // 5,000 expected, with a standard deviation of 61.
  expect(Math.abs(picked.a - 5_000)).toBeLessThan(500)
  expect(picked.none).toBe(0)
})

test('pick bears weights at both ends of what a number can be', () => {
  const router = new Router<One>(
    new Source([
      { id: 'a', weight: Number.MAX_VALUE },
      { id: 'b', weight: Number.MAX_VALUE },
      { id: 'c', weight: 5e-324 },
    ]),
    WEIGHED,
  )
  expect(new Set(KEYS.map(() => router.pick()?.id))).toEqual(new Set(['a', 'b']))
})

test('what cannot route is refused at once', () => {
  const make = (source: unknown, options?: unknown) => () =>
    new Router(source as Source, options as Record<string, never>)
  for (const source of [undefined, null, 1, 'text', {}, [], () => undefined]) {
    expect(make(source)).toThrow(TypeError)
  }
  for (const options of [null, 1, [], { weight: 3 }, { key: 'id' }, { forMs: 1 }]) {
    expect(make(new Source(), options)).toThrow(OptionError)
  }
})

test('bad ejections are refused, and change nothing', () => {
  const [one = { id: '' }, ...others] = members(3)
  const router = new Router(new Source([one, ...others]))
  for (const options of [undefined, null, {}, { forMs: -1 }, { forMs: NaN }, { forMs: '5' }, { ms: 5 }]) {
    expect(() => router.eject(one, options as { forMs: number })).toThrow(OptionError)
  }
  for (const member of [undefined, null, {}, { id: 5 }, 'member 0']) {
    expect(() => router.eject(member as One, { forMs: 5 })).toThrow(TypeError)
  }
  router.eject({ id: 'nobody' }, { forMs: 60_000 })
  expect(ownersOf(router).size).toBe(3)
})

test('what weight throws is thrown by each question until the data is good again', () => {
  const source = new Source([{ id: 'a', weight: NaN }, { id: 'b' }])
  const router = new Router<One>(source, WEIGHED)
  for (let n = 0; n < 2; n++) {
    expect(() => router.owner('x')).toThrow(RangeError)
    expect(() => router.pick()).toThrow(RangeError)
  }
  source.show([{ id: 'a', weight: 0 }, { id: 'b' }])
  expect(router.owner('x')).toEqual({ id: 'b' })
})

test('promise 12: an ejection keeps no process alive', () => {
  const script = `
    import { Router } from 'pg-membership/routing'
    const router = new Router({ snapshot: { members: [{ id: 'a' }, { id: 'b' }] } })
    router.eject({ id: 'a' }, { forMs: 3_600_000 })
    process.stdout.write(router.owner('x').id)`
  const { stdout, stderr, signal } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    encoding: 'utf8',
    timeout: 20_000,
  })
  expect({ stdout, stderr, signal }).toEqual({ stdout: 'b', stderr: '', signal: null })
})

test('follows a cluster, whose members need no type of their own', async () => {
  await using cluster = new MemoryCluster({ name: 'routing' })
  const router = new Router(cluster, { weight: ({ data }) => Number(data) })
  const [light, none] = ['1', '0'].map((data) => cluster.createMembership({ data }))
  await Promise.all([light?.register(), none?.register()])
  expect([router.owner('x')?.id, router.pick()?.id]).toEqual([light?.id, light?.id])
  await none?.setData('5')
  await light?.setData('0')
  expect([router.owner('x')?.id, router.pick()?.id]).toEqual([none?.id, none?.id])
})
