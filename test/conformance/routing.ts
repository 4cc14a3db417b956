import { Router } from 'pg-membership/routing'
import { expect } from 'vitest'
import type { Declare } from './suite.js'
import { eventually, fresh, join } from './world.js'

const KEYS = Array.from({ length: 50 }, (_, n) => `key ${n}`)

function ownersBy(router: Router): (string | undefined)[] {
  return KEYS.map((key) => router.owner(key)?.data)
}

export function routing(check: Declare): void {
  check(
    'contract: a router knows nobody before the first snapshot, and asks nothing by itself',
    async (world) => {
      const cluster = world.open()
      const router = new Router(cluster)
      await join(world.open(), { data: 'someone' })
      expect([router.owner('x'), router.owners('x', 1), router.pick()]).toEqual([undefined, [], undefined])
      expect(cluster.status.mode).toBe('connecting')
      await cluster.getMembers()
      expect([router.owner('x')?.data, router.pick()?.data]).toEqual(['someone', 'someone'])
    },
  )

  check('contract: all processes name the same owner of each key', async (world) => {
    const clusters = [world.open(), world.open(), world.open()]
    for (const [n, cluster] of clusters.entries()) await join(cluster, { data: `process ${n}` })
    await Promise.all(clusters.map(fresh))
    const [first, ...others] = clusters.map((cluster) => ownersBy(new Router(cluster)))
    for (const other of others) expect(other).toEqual(first)
    expect(new Set(first).size).toBe(3)
  })

  check('contract: the keys of a member that leaves move, and no other key does', async (world) => {
    const cluster = world.open()
    const router = new Router(cluster)
    const [leaving] = await Promise.all(['a', 'b', 'c'].map((data) => join(cluster, { data })))
    const before = KEYS.map((key) => router.owners(key, 2).map(({ data }) => data))
    await leaving?.deregister()
    expect(ownersBy(router)).toEqual(before.map(([first, second]) => (first === 'a' ? second : first)))
  })

  check('contract: weights come from data, and a weight of 0 drains', async (world) => {
    const cluster = world.open()
    const router = new Router(cluster, { weight: ({ data }) => Number(data) })
    const draining = await join(cluster, { data: '1' })
    await join(cluster, { data: '3' })
    expect(new Set(ownersBy(router))).toEqual(new Set(['1', '3']))
    await draining.setData('0')
    expect(new Set(ownersBy(router))).toEqual(new Set(['3']))
    expect(new Set(KEYS.map(() => router.pick()?.data))).toEqual(new Set(['3']))
  })

  check('contract: an ejection is forgotten when the member is lost and comes back', async (world) => {
    const [cluster, other] = [world.open(), world.open()]
    const router = new Router(cluster)
    const membership = await join(other, { data: 'failed' })
    await join(other, { data: 'well' })
    await fresh(cluster)
    const [failed] = await cluster.getMembers()
    if (failed === undefined) throw new Error('nobody is registered')
    router.eject(failed, { forMs: 3_600_000 })
    expect(new Set(ownersBy(router))).toEqual(new Set(['well']))
    await world.remove(membership.id, 'removed')
    await eventually(
      () => (cluster.snapshot?.get(membership.id)?.token ?? 0) > failed.token,
      'it is back with a higher token',
    )
    expect(new Set(ownersBy(router))).toEqual(new Set(['failed', 'well']))
  })
}
