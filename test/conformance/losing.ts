import type { Cluster, Lease, Membership, MembershipOptions } from 'pg-membership'
import { DeregisteredError, MembershipLostError } from 'pg-membership'
import { expect } from 'vitest'
import type { Removal } from './harness.js'
import type { Declare } from './suite.js'
import {
  abortOf,
  bounded,
  dataOf,
  ended,
  eventually,
  follow,
  fresh,
  idsOf,
  join,
  SHORT_TTL_MS,
  shows,
  step,
  type World,
} from './world.js'

export function losing(check: Declare): void {
  check(
    'promise 8: a member taken away by others is lost, with the reason, and comes back',
    async (world) => {
      const observer = world.open()
      for (const removal of world.removals) {
        const cluster = world.open()
        const membership = await join(cluster, { data: removal })
        const lease = await membership.register()
        await world.remove(membership.id, removal)
        expectLost(await abortOf(lease.signal), removal)

        const next = await bounded(membership.whenRegistered(), 'the automatic return')
        expect(next).not.toBe(lease)
        expect(next.token).toBeGreaterThan(lease.token)
        expect(next.signal.aborted).toBe(false)
        await shows(cluster, [removal])
        expect(await fresh(observer)).toMatchObject([{ id: membership.id, data: removal, token: next.token }])
        await cluster.close()
      }
    },
  )

  check('promise 8: losing and returning goes on for as long as others remove', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster)
    let lease = await membership.register()
    for (let n = 0; n < 5; n++) {
      await world.remove(membership.id, 'removed')
      await abortOf(lease.signal)
      const next = await bounded(membership.whenRegistered(), 'the automatic return')
      expect(next.token).toBeGreaterThan(lease.token)
      lease = next
    }
    expect(await fresh(cluster)).toMatchObject([{ id: membership.id, token: lease.token }])
  })

  check('contract: only who was taken away is lost', async (world) => {
    const cluster = world.open()
    const [one, two, three] = [await join(cluster), await join(cluster), await join(world.open())]
    const leases = [one.lease, three.lease]
    let lease = await two.register()
    for (const removal of world.removals) {
      await world.remove(two.id, removal)
      await abortOf(lease.signal)
      lease = await bounded(two.whenRegistered(), 'the automatic return')
    }
    expect([one.lease, three.lease]).toEqual(leases)
    expect(leases.map((lease) => lease?.signal.aborted)).toEqual([false, false])
    expect(idsOf(await fresh(cluster))).toEqual([one.id, three.id, two.id])
  })

  check('contract: watchers of all processes see the loss and the return', async (world) => {
    const cluster = world.open()
    const observer = world.open()
    const membership = await join(cluster, { onLost: 'stay-out', data: 'here' })
    const watchers = [cluster.watchMembers(), observer.watchMembers()]
    for (const watcher of watchers) expect(dataOf(await step(watcher))).toEqual(['here'])
    await world.remove(membership.id, 'removed')
    for (const watcher of watchers) expect(await step(watcher)).toEqual([])
    await eventually(() => membership.lease === undefined, 'the loss is known')
    await membership.register()
    for (const watcher of watchers) expect(dataOf(await step(watcher))).toEqual(['here'])
    await cluster.close()
    await ended(watchers[0] ?? cluster.watchMembers())
  })

  check('contract: who stays out is not registered again, except by hand', async (world) => {
    for (const removal of world.removals) {
      const cluster = world.open()
      const membership = await join(cluster, { onLost: 'stay-out' })
      const lease = await membership.register()
      await world.remove(membership.id, removal)
      expectLost(await abortOf(lease.signal), removal)
      expect(membership.lease).toBeUndefined()
      const waiting = membership.whenRegistered()

      // Whatever could bring it back has had its turn when others have come and gone.
      const guest = await join(cluster, { data: 'guest' })
      await guest.setData('still here')
      await guest.deregister()
      expect(await fresh(cluster)).toEqual([])
      expect(membership.lease).toBeUndefined()

      const next = await membership.register()
      expect(next.token).toBeGreaterThan(lease.token)
      expect(await bounded(waiting, 'whenRegistered')).toBe(next)
      expect(await fresh(cluster)).toMatchObject([{ id: membership.id, token: next.token }])
      await cluster.close()
    }
  })

  check('contract: one that stays out may be deregistered, and takes new data along', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster, { onLost: 'stay-out', data: 'old' })
    const lease = await membership.register()
    await world.remove(membership.id, 'removed')
    await abortOf(lease.signal)
    await bounded(membership.deregister(), 'deregister')
    expect(lease.signal.reason).toBeInstanceOf(MembershipLostError)
    await bounded(membership.setData('new'), 'setData')
    expect(await fresh(cluster)).toEqual([])
    await membership.register()
    expect(dataOf(await cluster.getMembers())).toEqual(['new'])
  })

  check('contract: register, called when lost, resolves with the lease of the return', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster)
    const lease = await membership.register()
    await world.remove(membership.id, 'removed')
    await abortOf(lease.signal)
    const next = await bounded(membership.register(), 'register')
    expect(next.token).toBeGreaterThan(lease.token)
    expect(membership.lease).toBe(next)
    expect(idsOf(await fresh(cluster))).toEqual([membership.id])
  })

  check('contract: deregister, called when lost, ends the return', async (world) => {
    for (let n = 0; n < 5; n++) {
      const cluster = world.open()
      const membership = await join(cluster)
      const lease = await membership.register()
      await world.remove(membership.id, 'removed')
      await abortOf(lease.signal)
      await bounded(membership.deregister(), 'deregister')
      expect(membership.lease).toBeUndefined()
      expect(await fresh(cluster)).toEqual([])
      await join(cluster, { data: 'someone else' })
      expect(dataOf(await fresh(cluster))).toEqual(['someone else'])
      await cluster.close()
    }
  })

  check('contract: data set around a loss is what the return shows', async (world) => {
    const cluster = world.open()
    const observer = world.open()
    const membership = await join(cluster, { data: 'before' })
    const lease = await membership.register()
    const removed = world.remove(membership.id, 'removed')
    const set = ['one', 'two', 'three'].map((value) => membership.setData(value))
    await removed
    await abortOf(lease.signal)
    await bounded(Promise.all(set), 'setData')
    await bounded(membership.whenRegistered(), 'the automatic return')
    await shows(cluster, ['three'])
    expect(dataOf(await fresh(observer))).toEqual(['three'])
  })

  check(
    'promise 8: silence ends the lease; the same registration goes on when nobody saw it',
    async (world) => {
      const { cluster, membership, lease } = await silent(world, { data: 'steady' })
      const [before] = cluster.snapshot?.members ?? []
      const { revision } = cluster.snapshot ?? {}
      const { seen, end } = follow(cluster.watchMembers())
      await eventually(() => seen.length === 1, 'the watcher has the members')
      const waiting = membership.whenRegistered()

      await world.reconnect(cluster)
      const next = await bounded(waiting, 'the next lease')
      expect(next).not.toBe(lease)
      expect(next.token).toBe(lease.token)
      expect(next.signal.aborted).toBe(false)
      expect(membership.lease).toBe(next)

      const observer = world.open()
      expect(await fresh(observer)).toEqual([before])
      expect(observer.snapshot?.revision).toBe(revision)
      expect((await fresh(cluster))[0]).toBe(before)
      await cluster.close()
      await bounded(end, 'the watcher ends')
      expect(seen).toHaveLength(1)
    },
  )

  check(
    'promise 8: silence ends the lease; when the registration is gone, it returns with a higher token',
    async (world) => {
      const { cluster, membership, lease } = await silent(world, { data: 'back' })
      await world.remove(membership.id, 'expired')
      const observer = world.open()
      expect(await fresh(observer)).toEqual([])
      const waiting = membership.whenRegistered()
      await world.reconnect(cluster)
      const next = await bounded(waiting, 'the automatic return')
      expect(next.token).toBeGreaterThan(lease.token)
      expect(await fresh(observer)).toMatchObject([{ id: membership.id, data: 'back', token: next.token }])
      await shows(cluster, ['back'])
      expect(cluster.snapshot?.get(membership.id)?.token).toBe(next.token)
    },
  )

  check('contract: who stays out when removed still goes on after mere silence', async (world) => {
    const { cluster, membership, lease } = await silent(world, { onLost: 'stay-out' })
    const waiting = membership.whenRegistered()
    await world.reconnect(cluster)
    const next = await bounded(waiting, 'the next lease')
    expect(next.token).toBe(lease.token)
  })

  check('contract: who stays out learns after its silence that it was removed', async (world) => {
    const { cluster, membership } = await silent(world, { onLost: 'stay-out' })
    await world.remove(membership.id, 'expired')
    await world.reconnect(cluster)
    await shows(cluster, [])
    const guest = await join(cluster, { data: 'guest' })
    await guest.deregister()
    expect(await fresh(cluster)).toEqual([])
    expect(membership.lease).toBeUndefined()
  })

  check('contract: register and setData, called in silence, wait for the database', async (world) => {
    const { cluster, membership, lease } = await silent(world, { data: 'before' })
    const registered = membership.register()
    const set = membership.setData('after')
    await world.reconnect(cluster)
    const next = await bounded(registered, 'register')
    expect(next.token).toBe(lease.token)
    await bounded(set, 'setData')
    expect(await fresh(world.open())).toMatchObject([{ data: 'after', token: lease.token }])
    expect(dataOf(cluster.snapshot?.members)).toEqual(['after'])
  })

  check(
    'contract: deregister, called in silence, keeps the reason of the loss and takes the row away',
    async (world) => {
      const { cluster, membership, lease } = await silent(world, {})
      const deregistered = membership.deregister()
      await world.reconnect(cluster)
      await bounded(deregistered, 'deregister')
      expectLost(lease.signal.reason, 'unreachable')
      expect(membership.lease).toBeUndefined()
      expect(await fresh(world.open())).toEqual([])
      expect(cluster.snapshot?.members).toEqual([])
    },
  )

  check('contract: a lease that was given up does not end a second time', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster)
    const lease = await membership.register()
    await membership.deregister()
    const { reason } = lease.signal as { reason: unknown }
    await membership.register()
    await world.remove(membership.id, 'removed')
    await eventually(() => membership.lease?.token !== lease.token, 'another lease')
    await cluster.close()
    expect(lease.signal.reason).toBe(reason)
    expect(reason).toBeInstanceOf(DeregisteredError)
  })
}

interface Silenced {
  readonly cluster: Cluster
  readonly membership: Membership
  readonly lease: Lease
}

/** A membership whose lease has just ended because its process was cut off; its row is still there. */
async function silent(world: World, options: MembershipOptions): Promise<Silenced> {
  const cluster = world.open({ ttlMs: SHORT_TTL_MS })
  const membership = await join(cluster, options)
  const lease = await membership.register()
  await world.disconnect(cluster)
  expectLost(await abortOf(lease.signal), 'unreachable')
  expect(membership.lease).toBeUndefined()
  return { cluster, membership, lease }
}

function expectLost(error: unknown, reason: Removal | 'unreachable'): void {
  expect(error).toBeInstanceOf(MembershipLostError)
  expect(error).toMatchObject({ code: 'LOST', reason })
}
