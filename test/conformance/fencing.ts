import { expect } from 'vitest'
import type { Declare } from './suite.js'
import { abortOf, bounded, eventually, fresh, join } from './world.js'

export function fencing(check: Declare): void {
  check('promise 13: a fence before registering is refused', async (world) => {
    expect(await world.fence(world.open().createMembership())).toBe('refused')
  })

  check('promise 13: a fence of a present registration lets the transaction commit', async (world) => {
    const membership = await join(world.open())
    expect(await world.fence(membership)).toBe('committed')
    expect(await Promise.all([world.fence(membership), world.fence(membership)])).toEqual([
      'committed',
      'committed',
    ])
  })

  check(
    'promise 13: a fence after deregistering is refused, and after registering again it is not',
    async (world) => {
      const membership = await join(world.open())
      await membership.deregister()
      expect(await world.fence(membership)).toBe('refused')
      await membership.register()
      expect(await world.fence(membership)).toBe('committed')
    },
  )

  check('promise 13: a fence after a loss is refused, however the member was lost', async (world) => {
    for (const removal of world.removals) {
      const cluster = world.open()
      const membership = await join(cluster, { onLost: 'stay-out' })
      const lease = await membership.register()
      await world.remove(membership.id, removal)
      expect(await world.fence(membership)).toBe('refused')
      await abortOf(lease.signal)
      expect(await world.fence(membership)).toBe('refused')
      await membership.register()
      expect(await world.fence(membership)).toBe('committed')
      await cluster.close()
    }
  })

  check('promise 13: a fence is refused to a process that does not know of its loss yet', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster)
    await world.disconnect(cluster)
    await world.remove(membership.id, 'removed')
    expect(await world.fence(membership)).toBe('refused')
    await world.reconnect(cluster)
    await eventually(() => membership.lease !== undefined, 'the automatic return')
  })

  check('promise 13: after an automatic return the fence is that of the new registration', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster)
    const lease = await membership.register()
    await world.remove(membership.id, 'removed')
    await abortOf(lease.signal)
    await bounded(membership.whenRegistered(), 'the automatic return')
    expect(await world.fence(membership)).toBe('committed')
  })

  check('promise 13: a fence after close is refused', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster)
    await cluster.close()
    expect(await world.fence(membership)).toBe('refused')
  })

  check(
    'promise 16: of all members only the first one leads, and the next when it has gone',
    async (world) => {
      const memberships = [await join(world.open()), await join(world.open()), await join(world.open())]
      const observer = world.open()
      for (const expected of memberships) {
        const leader = (await fresh(observer))[0]
        expect(leader?.id).toBe(expected.id)
        expect(await world.fence(expected)).toBe('committed')
        await expected.deregister()
        expect(await world.fence(expected)).toBe('refused')
      }
      expect(await fresh(observer)).toEqual([])
    },
  )
}
