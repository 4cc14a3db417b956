import type { Cluster, Lease, Membership } from 'pg-membership'
import { ClosedError, DeregisteredError, MembershipLostError, OptionError } from 'pg-membership'
import { Claims } from 'pg-membership/claims'
import { expect } from 'vitest'
import type { Declare } from './suite.js'
import { abortOf, bounded, eventually, expectAborted, join, type World } from './world.js'

async function claimant(
  world: World,
  space?: string,
): Promise<{ cluster: Cluster; membership: Membership; claims: Claims }> {
  const cluster = world.open()
  const membership = await join(cluster)
  const claims = new Claims({ cluster, membership, ...(space === undefined ? {} : { space }) })
  return { cluster, membership, claims }
}

function leaseOf(membership: Membership): Lease {
  if (membership.lease === undefined) throw new Error('there is no lease')
  return membership.lease
}

export function claims(check: Declare): void {
  check(
    'promise 17: a key is one registration’s alone, and claiming again says that it is ours',
    async (world) => {
      const [ada, bob] = [await claimant(world), await claimant(world)]
      expect(await ada.claims.claim(['a', 'b'])).toEqual(new Set(['a', 'b']))
      expect(await bob.claims.claim(['b', 'c', 'c'])).toEqual(new Set(['c']))
      expect(await ada.claims.claim(['b', 'c', 'd'])).toEqual(new Set(['b', 'd']))
      expect(ada.claims.held).toEqual(new Set(['a', 'b', 'd']))
      expect(bob.claims.held).toEqual(new Set(['c']))
      expect(await bob.claims.claim([])).toEqual(new Set())
      expect(await bob.claims.owner('a')).toEqual({
        id: ada.membership.id,
        token: leaseOf(ada.membership).token,
      })
      expect(await bob.claims.owner('e')).toBeUndefined()
    },
  )

  check('promise 17: of many that claim the same keys at once, each key has one owner', async (world) => {
    const all = await Promise.all([claimant(world), claimant(world), claimant(world)])
    const keys = Array.from({ length: 50 }, (_, n) => `key ${n}`)
    const claimed = await Promise.all(
      all.flatMap(({ claims: one }) => [one.claim(keys), one.claim(keys.toReversed())]),
    )
    // Of one process, the second claim has what the first one got.
    const owned = [0, 2, 4].flatMap((n) => [...new Set([...(claimed[n] ?? []), ...(claimed[n + 1] ?? [])])])
    expect(owned.toSorted()).toEqual(keys.toSorted())
  })

  check('promise 17: what is released is free, and what is not ours stays', async (world) => {
    const [ada, bob] = [await claimant(world), await claimant(world)]
    await ada.claims.claim(['a', 'b'])
    await bob.claims.release(['a', 'b', 'never claimed'])
    expect(await bob.claims.claim(['a'])).toEqual(new Set())
    const before = ada.claims.held
    await ada.claims.release(['a'])
    expect([before, ada.claims.held]).toEqual([new Set(['a', 'b']), new Set(['b'])])
    expect(await bob.claims.claim(['a', 'b'])).toEqual(new Set(['a']))
  })

  check('promise 14: spaces and clusters do not meet', async (world) => {
    const [one, other] = [await claimant(world), await claimant(world, 'other')]
    const elsewhere = world.open({ name: `${world.name}-elsewhere` })
    const far = new Claims({ cluster: elsewhere, membership: await join(elsewhere) })
    for (const { claim } of [one.claims, other.claims, far].map((c) => ({ claim: c.claim.bind(c) })))
      expect(await claim(['a'])).toEqual(new Set(['a']))
    const foreign = new Claims({ cluster: elsewhere, membership: one.membership })
    await expect(foreign.claim(['b'])).rejects.toThrow(MembershipLostError)
  })

  check('promise 17: a registration’s keys are free when it has ended, however it ended', async (world) => {
    const heir = await claimant(world)
    for (const removal of world.removals) {
      const { membership, claims: own } = await claimant(world)
      const { token, signal } = leaseOf(membership)
      await own.claim(['a'])
      await world.remove(membership.id, removal)
      expect(await heir.claims.claim(['a'])).toEqual(new Set(['a']))
      await abortOf(signal)
      expect(own.held).toEqual(new Set())
      const lease = await bounded(membership.whenRegistered(), 'it comes back')
      expect(lease.token).toBeGreaterThan(token)
      expect([own.held, await own.claim(['a', 'b'])]).toEqual([new Set(), new Set(['b'])])
      await heir.claims.release(['a'])
      await membership.deregister()
      expect(await heir.claims.claim(['a', 'b'])).toEqual(new Set(['a', 'b']))
      await heir.claims.release(['a', 'b'])
    }
  })

  check('promise 18: a fence passes only while all of the keys are ours', async (world) => {
    const [ada, bob] = [await claimant(world), await claimant(world)]
    const fence = (keys: string[], by = ada) => world.inTransaction((client) => by.claims.fence(client, keys))
    expect(await fence(['a'])).toBe('refused')
    await ada.claims.claim(['a', 'b'])
    await bob.claims.claim(['c'])
    expect([await fence(['a', 'b', 'a']), await fence(['b', 'c']), await fence(['a'], bob)]).toEqual([
      'committed',
      'refused',
      'refused',
    ])
    await ada.claims.release(['b'])
    expect([await fence(['a']), await fence(['b'])]).toEqual(['committed', 'refused'])
    await ada.membership.deregister()
    expect(await fence(['a'])).toBe('refused')
    await ada.membership.register()
    expect([await fence(['a']), await fence([])]).toEqual(['refused', 'committed'])
  })

  check('promise 18: a process that does not know of its loss yet cannot pass a fence', async (world) => {
    const { cluster, membership, claims: own } = await claimant(world)
    await own.claim(['a'])
    await world.disconnect(cluster)
    await world.remove(membership.id, 'removed')
    expect(await world.inTransaction((client) => own.fence(client, ['a']))).toBe('refused')
    await world.reconnect(cluster)
  })

  check('promise 17: without a lease nothing is claimed, and the error says why', async (world) => {
    const cluster = world.open()
    const membership = cluster.createMembership()
    const own = new Claims({ cluster, membership })
    await expect(own.claim(['a'])).rejects.toThrow(MembershipLostError)
    expect([own.held, await own.owner('a')]).toEqual([new Set(), undefined])
    await own.release(['a'])
    await membership.register()
    await own.claim(['a'])
    await membership.deregister()
    expect(own.held).toEqual(new Set())
    await expect(own.claim(['a'])).rejects.toThrow(MembershipLostError)
    await cluster.close()
    await expect(own.claim(['a'])).rejects.toThrow(ClosedError)
    await expect(own.owner('a')).rejects.toThrow(ClosedError)
  })

  check(
    'promise 17: a claim waits for the database, until the caller or the lease gives up',
    async (world) => {
      const { cluster, membership, claims: own } = await claimant(world)
      await own.claim(['a'])
      await world.disconnect(cluster)
      const given = new AbortController()
      // In memory the cut ends the lease at once.
      const waiting = own.claim(['b'], { signal: given.signal }).catch((error: unknown) => error)
      const asking = own.owner('a', { signal: given.signal })
      given.abort('enough')
      await expectAborted(asking, 'enough')
      expect(await bounded(waiting, 'the claim is given up')).toMatchObject({
        code: expect.stringMatching(/^(ABORTED|LOST)$/) as string,
      })
      await expectAborted(own.release(['b'], { signal: AbortSignal.abort('at once') }), 'at once')
      await world.reconnect(cluster)
      await eventually(() => membership.lease !== undefined, 'a lease')
      expect(await bounded(own.claim(['a', 'b']), 'a claim after the cut')).toEqual(new Set(['a', 'b']))
      const leaving = membership.deregister()
      await expect(own.claim(['c'])).rejects.toThrow(MembershipLostError)
      await leaving
    },
  )

  check('promise 17: a claim under way when the membership is given up is rejected', async (world) => {
    const { membership, claims: own } = await claimant(world)
    const waiting = own.claim(['a'])
    const leaving = membership.deregister()
    await expect(waiting).rejects.toThrow(DeregisteredError)
    await leaving
    expect(own.held).toEqual(new Set())
  })

  check('promise 12: what is no key, no iterable, no cluster or no option is refused', async (world) => {
    const { cluster, membership, claims: own } = await claimant(world)
    const odd = ['', 'a\0b', '\ud800', 'ä'.repeat(128), 1, null, undefined, {}, ['a']]
    for (const key of odd) {
      await expect(own.claim([key as string])).rejects.toThrow(OptionError)
      await expect(own.release(['fine', key as string])).rejects.toThrow(OptionError)
      await expect(own.owner(key as string)).rejects.toThrow(OptionError)
      await expect(own.fence({ query: () => Promise.resolve() }, [key as string])).rejects.toThrow(
        OptionError,
      )
    }
    for (const keys of ['abc', null, undefined, 1, {}])
      await expect(own.claim(keys as string[])).rejects.toThrow(OptionError)
    await expect(own.claim(['a'], { signal: 1 } as object)).rejects.toThrow(OptionError)
    await expect(own.fence({ query: 1 } as never, ['a'])).rejects.toThrow(TypeError)
    for (const space of ['x'.repeat(256), '\0', 1, null])
      expect(() => new Claims({ cluster, membership, space: space as string })).toThrow(OptionError)
    expect(() => new Claims({ cluster, membership, spcae: '' } as never)).toThrow(OptionError)
    expect(() => new Claims({ cluster, membership: {} as Membership })).toThrow(OptionError)
    expect(() => new Claims({ cluster: {} as Cluster, membership })).toThrow(TypeError)
    const keys = ['"', '\\', '{}', 'null', 'NULL', `'; drop table claims; --`, '🐘', 'ä'.repeat(127), ' ']
    expect(await own.claim(new Set(keys))).toEqual(new Set(keys))
    expect(await own.owner('NULL')).toMatchObject({ id: membership.id })
    await own.release(keys)
    expect(await own.owner('NULL')).toBeUndefined()
  })
}
