import fc from 'fast-check'
import type { Cluster, Membership } from 'pg-membership'
import { OptionError } from 'pg-membership'
import { expect } from 'vitest'
import type { Declare } from './suite.js'
import { bounded, dataOf, ended, expectAborted, fresh, join, shows } from './world.js'

const MEBIBYTE = 1_048_576

/** What JavaScript callers can pass, whatever the types say. */
const notStrings: readonly unknown[] = [
  null,
  0,
  42,
  true,
  {},
  [],
  ['text'],
  Symbol('text'),
  new Uint8Array(3),
]

const tooLarge: readonly string[] = [
  'x'.repeat(MEBIBYTE + 1),
  `${'é'.repeat(MEBIBYTE / 2)}x`,
  '\u20ac'.repeat(MEBIBYTE / 2),
  '\u{1f98a}'.repeat(MEBIBYTE / 4 + 1),
]

const illFormed: readonly string[] = [
  '\ud800',
  '\udfff',
  'a\ud83e',
  '\udd8ab',
  '\udd8a\ud83e',
  '\ud83e\ud83e\udd8a',
]

export function badInput(check: Declare): void {
  check('contract: a cluster name that cannot be one is refused at once', (world) => {
    for (const name of ['', 'a\0b', '\ud800', 'x'.repeat(256), 'é'.repeat(128), 'x'.repeat(100_000)]) {
      expect(() => world.open({ name })).toThrow(OptionError)
    }
    for (const name of notStrings) {
      expect(() => world.open({ name: name as string })).toThrow(OptionError)
    }
    expect(() => world.open({ name: '' })).toThrow(/name/)
    return Promise.resolve()
  })

  check('contract: an onLost that is none of its values is refused at once', async (world) => {
    const cluster = world.open()
    for (const onLost of ['', 'register', 'stay', 0, null, true]) {
      expect(() => cluster.createMembership({ onLost: onLost as 'stay-out' })).toThrow(OptionError)
    }
    expect(() => cluster.createMembership({ onLost: 'whatever' as 'stay-out' })).toThrow(/onLost.*whatever/s)
    expect(await fresh(cluster)).toEqual([])
  })

  check('contract: data that is not a string is a TypeError, and changes nothing', async (world) => {
    const cluster = world.open()
    for (const value of notStrings) {
      expect(() => cluster.createMembership({ data: value as string })).toThrow(TypeError)
    }
    await expectUnchanged(cluster, async (membership) => {
      for (const value of [undefined, ...notStrings]) {
        await expect(membership.setData(value as string)).rejects.toThrow(TypeError)
      }
    })
  })

  check('contract: data with a lone surrogate is a TypeError, and changes nothing', async (world) => {
    const cluster = world.open()
    for (const value of illFormed) {
      expect(() => cluster.createMembership({ data: value })).toThrow(TypeError)
    }
    const wellFormed = fc.string({ unit: 'binary' })
    const surrogate = fc.integer({ min: 0xd800, max: 0xdfff }).map((unit) => String.fromCharCode(unit))
    await expectUnchanged(cluster, async (membership) => {
      for (const value of illFormed) {
        await expect(membership.setData(value)).rejects.toThrow(TypeError)
      }
      await fc.assert(
        fc.asyncProperty(wellFormed, surrogate, wellFormed, async (before, lone, after) => {
          const value = `${before}${lone}${after}`
          expect(() => cluster.createMembership({ data: value })).toThrow(TypeError)
          await expect(membership.setData(value)).rejects.toThrow(TypeError)
        }),
      )
    })
  })

  check('contract: data above 1 MiB of UTF-8 is a RangeError, and changes nothing', async (world) => {
    const cluster = world.open()
    for (const value of tooLarge) {
      expect(() => cluster.createMembership({ data: value })).toThrow(RangeError)
    }
    await expectUnchanged(cluster, async (membership) => {
      for (const value of tooLarge) {
        await expect(membership.setData(value)).rejects.toThrow(RangeError)
      }
    })
  })

  check('contract: bad data is refused before registering, too', async (world) => {
    const cluster = world.open()
    const membership = cluster.createMembership({ data: 'good' })
    await expect(membership.setData('\ud800')).rejects.toThrow(TypeError)
    await expect(membership.setData(7 as unknown as string)).rejects.toThrow(TypeError)
    await expect(membership.setData('x'.repeat(MEBIBYTE + 1))).rejects.toThrow(RangeError)
    expect(membership.data).toBe('good')
    await membership.register()
    expect(dataOf(await cluster.getMembers())).toEqual(['good'])
  })

  check('contract: bad data between good is passed over', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster)
    const [one, bad, two] = [
      membership.setData('one'),
      membership.setData('\udc00'),
      membership.setData('two'),
    ]
    await Promise.all([one, expect(bad).rejects.toThrow(TypeError), two])
    expect(dataOf(await cluster.getMembers())).toEqual(['two'])
  })

  check(
    'contract: what cannot be waited with is an OptionError at once, and changes nothing',
    async (world) => {
      const cluster = world.open()
      const polyfill = { aborted: false, addEventListener: () => undefined }
      const bad: readonly unknown[] = [
        null,
        5,
        'signal',
        ...[null, 5, {}, new AbortController(), polyfill].map((signal) => ({ signal })),
      ]
      await expectUnchanged(cluster, async (membership) => {
        for (const value of bad) {
          const options = value as { signal: AbortSignal }
          const refused = (call: Promise<unknown>): Promise<void> => expect(call).rejects.toThrow(OptionError)
          await refused(cluster.getMembers(options))
          expect(() => cluster.watchMembers(options)).toThrow(OptionError)
          await refused(cluster.createMembership().register(options))
          await refused(membership.register(options))
          await refused(membership.whenRegistered(options))
          await refused(membership.setData('changed', options))
          await refused(membership.deregister(options))
        }
        await expect(cluster.getMembers({ fresh: 'yes' as unknown as boolean })).rejects.toThrow(OptionError)
        expect(membership.lease).toBeDefined()
      })
    },
  )

  check('contract: what cannot be fenced with is a TypeError at once', async (world) => {
    const membership = await join(world.open())
    const query = (): Promise<never> => Promise.reject(new Error('it was asked'))
    const pgPool = { totalCount: 0, idleCount: 0, waitingCount: 0, connect: query, query }
    for (const client of [undefined, null, 5, {}, { query: 'select' }, pgPool, { $pool: {}, query }]) {
      await expect(membership.fence(client as { query: () => Promise<never> })).rejects.toThrow(TypeError)
    }
  })

  check('contract: with an aborted signal, reads reject and watchers end', async (world) => {
    const cluster = world.open()
    const reason = new Error('too late')
    const signal = AbortSignal.abort(reason)
    await expectAborted(cluster.getMembers({ signal }), reason)
    await expectAborted(cluster.getMembers({ signal, fresh: true }), reason)
    await ended(cluster.watchMembers({ signal }))
    await cluster.getMembers()
    await expectAborted(cluster.getMembers({ signal, fresh: true }), reason)
    await ended(cluster.watchMembers({ signal }))
  })

  check(
    'contract: with an aborted signal, register and whenRegistered reject, and nobody joins',
    async (world) => {
      const cluster = world.open()
      const reason = { any: 'value' }
      const signal = AbortSignal.abort(reason)
      const membership = cluster.createMembership({ data: 'late' })
      await expectAborted(membership.register({ signal }), reason)
      await expectAborted(membership.whenRegistered({ signal }), reason)
      await cluster.getMembers()
      await expectAborted(membership.register({ signal }), reason)
      expect(membership.lease).toBeUndefined()
      await join(cluster, { data: 'in time' })
      expect(dataOf(await fresh(cluster))).toEqual(['in time'])
      await membership.register()
      expect(dataOf(await fresh(cluster))).toEqual(['in time', 'late'])
    },
  )

  check(
    'contract: with an aborted signal, deregister does not wait, and the member leaves all the same',
    async (world) => {
      const cluster = world.open()
      const membership = await join(cluster)
      await expectAborted(membership.deregister({ signal: AbortSignal.abort('too late') }), 'too late')
      expect(membership.lease).toBeUndefined()
      await shows(cluster, [])
      await bounded(membership.deregister(), 'deregister')
      expect(await fresh(cluster)).toEqual([])
    },
  )

  check(
    'contract: with an aborted signal, setData does not wait, and what it left as data is what shows',
    async (world) => {
      const cluster = world.open()
      const membership = await join(cluster, { data: 'before' })
      await expectAborted(membership.setData('after', { signal: AbortSignal.abort('too late') }), 'too late')
      await shows(cluster, [membership.data])
      expect(dataOf(await fresh(world.open()))).toEqual([membership.data])
    },
  )
}

/** A member keeps its data, its registration and its cluster's revision through all attempts. */
async function expectUnchanged(
  cluster: Cluster,
  attempt: (membership: Membership) => Promise<void>,
): Promise<void> {
  const membership = await join(cluster, { data: 'good' })
  const before = cluster.snapshot
  await attempt(membership)
  expect(membership.data).toBe('good')
  expect(await fresh(cluster)).toEqual(before?.members)
  expect(cluster.snapshot?.revision).toBe(before?.revision)
  await membership.setData('better')
  expect(dataOf(await cluster.getMembers())).toEqual(['better'])
}
