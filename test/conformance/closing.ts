import { ClosedError, MembershipError } from 'pg-membership'
import { expect } from 'vitest'
import type { Declare } from './suite.js'
import { bounded, dataOf, eventually, fresh, join, shows, step } from './world.js'

export function closing(check: Declare): void {
  check('contract: closing deregisters, and others see it', async (world) => {
    const cluster = world.open()
    const observer = world.open()
    await join(observer, { data: 'staying' })
    await join(cluster, { data: 'leaving' })
    await join(cluster, { data: 'leaving, too' })
    await shows(observer, ['staying', 'leaving', 'leaving, too'])
    await cluster.close()
    expect(dataOf(await fresh(observer))).toEqual(['staying'])
    expect(cluster.status.mode).toBe('closed')
  })

  check('contract: closing ends each lease with a ClosedError', async (world) => {
    const cluster = world.open()
    const memberships = [await join(cluster), await join(cluster)]
    const leases = await Promise.all(memberships.map((membership) => membership.register()))
    await cluster.close()
    for (const { signal } of leases) {
      expect(signal.aborted).toBe(true)
      expect(signal.reason).toBeInstanceOf(ClosedError)
      expect(signal.reason).toMatchObject({ code: 'CLOSED' })
    }
    expect(memberships.map(({ lease }) => lease)).toEqual([undefined, undefined])
  })

  check('contract: closing is idempotent, also all at once', async (world) => {
    const cluster = world.open()
    await join(cluster)
    await bounded(Promise.all([cluster.close(), cluster.close(), cluster.close()]), 'three closes at once')
    await bounded(cluster.close(), 'another close')
    await bounded(cluster[Symbol.asyncDispose](), 'disposing')
    expect(await fresh(world.open())).toEqual([])
  })

  check('contract: disposing of a cluster closes it', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster)
    const lease = await membership.register()
    await cluster[Symbol.asyncDispose]()
    expect(cluster.status.mode).toBe('closed')
    expect(lease.signal.reason).toBeInstanceOf(ClosedError)
    expect(await fresh(world.open())).toEqual([])
  })

  check('contract: a cluster that was never used closes', async (world) => {
    const cluster = world.open()
    await bounded(cluster.close(), 'close')
    expect(cluster.status.mode).toBe('closed')
  })

  check('contract: a cluster that has just begun to connect closes', async (world) => {
    const cluster = world.open()
    const read = cluster.getMembers()
    await Promise.all([
      bounded(cluster.close(), 'close'),
      expect(bounded(read, 'the read settles')).rejects.toBeInstanceOf(ClosedError),
    ])
  })

  check('promise 11: closing is bounded in time while the database is away', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster)
    const lease = await membership.register()
    await world.disconnect(cluster)
    await bounded(cluster.close(), 'close')
    expect(cluster.status.mode).toBe('closed')
    expect(lease.signal.aborted).toBe(true)
  })

  check('contract: closing rejects whatever waits with a ClosedError', async (world) => {
    const cluster = world.open()
    await world.disconnect(cluster)
    const membership = cluster.createMembership()
    const other = cluster.createMembership()
    const waiting = [
      cluster.getMembers(),
      cluster.getMembers({ fresh: true }),
      membership.register(),
      membership.whenRegistered(),
      other.whenRegistered(),
    ]
    const watcher = cluster.watchMembers()
    const pending = watcher.next()
    const settled = Promise.allSettled(waiting)
    await bounded(cluster.close(), 'close')
    for (const result of await bounded(settled, 'all settle')) {
      expect(result).toMatchObject({ status: 'rejected' })
      expect(result.status === 'rejected' && result.reason).toBeInstanceOf(ClosedError)
    }
    expect(await bounded(pending, 'the watcher ends')).toEqual({ done: true, value: undefined })
  })

  check('contract: closing ends the wait of setData and deregister', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster)
    const leaving = await join(cluster)
    await world.disconnect(cluster)
    const settled = Promise.allSettled([membership.setData('never to arrive'), leaving.deregister()])
    await bounded(cluster.close(), 'close')
    const [set] = await bounded(settled, 'both settle')
    expect(set.status === 'rejected' && set.reason).toBeInstanceOf(ClosedError)
  })

  check('contract: whenRegistered of a connected cluster rejects when it closes', async (world) => {
    const cluster = world.open()
    const membership = cluster.createMembership()
    const waiting = expect(bounded(membership.whenRegistered(), 'it settles')).rejects.toBeInstanceOf(
      ClosedError,
    )
    await cluster.getMembers()
    await cluster.close()
    await waiting
  })

  check('contract: what registers while its cluster closes is not left behind', async (world) => {
    const observer = world.open()
    for (let n = 0; n < 5; n++) {
      const cluster = world.open()
      if (n % 2 === 0) await cluster.getMembers()
      const registered = Array.from({ length: 5 }, () => cluster.createMembership().register())
      const settled = Promise.allSettled(registered)
      await bounded(cluster.close(), 'close')
      for (const result of await bounded(settled, 'all settle')) {
        if (result.status === 'rejected') expect(result.reason).toBeInstanceOf(ClosedError)
        else expect(result.value.signal.aborted).toBe(true)
      }
      await observer.getMembers()
      await shows(observer, [])
      expect(await fresh(observer)).toEqual([])
    }
  })

  check('contract: calls after close are answered with a ClosedError', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster, { data: 'before' })
    const fetched = await step(cluster.watchMembers())
    await cluster.close()

    expect(() => cluster.createMembership()).toThrow(ClosedError)
    const calls: readonly (() => Promise<unknown>)[] = [
      () => cluster.getMembers(),
      () => cluster.getMembers({ fresh: true }),
      () => membership.register(),
      () => membership.whenRegistered(),
      () => membership.setData('after'),
    ]
    for (const call of calls) {
      const error: unknown = await bounded(call(), 'the call settles').then(
        () => new Error(`resolved: ${String(call)}`),
        (rejection: unknown) => rejection,
      )
      if (!(error instanceof ClosedError)) throw error
      expect(error).toBeInstanceOf(MembershipError)
      expect(error.code).toBe('CLOSED')
    }
    expect(membership.lease).toBeUndefined()
    expect(dataOf(fetched)).toEqual(['before'])
    await bounded(membership[Symbol.asyncDispose](), 'disposing of a membership after its cluster')
  })

  check('contract: a watcher made after close never yields', async (world) => {
    const cluster = world.open()
    await cluster.getMembers()
    await cluster.close()
    expect(await bounded(cluster.watchMembers().next(), 'the step')).toEqual({ done: true, value: undefined })
  })

  check('contract: closing one of several views leaves the others alone', async (world) => {
    const [closing, staying] = [world.open(), world.open()]
    const membership = await join(staying, { data: 'staying' })
    const lease = await membership.register()
    await join(closing, { data: 'leaving' })
    await closing.close()
    await eventually(() => staying.snapshot?.members.length === 1, 'the other view shows who stays')
    expect(membership.lease).toBe(lease)
    await membership.setData('still here')
    expect(dataOf(staying.snapshot?.members)).toEqual(['still here'])
  })
}
