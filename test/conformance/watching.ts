import type { Member } from 'pg-membership'
import { expect } from 'vitest'
import type { Declare } from './suite.js'
import { bounded, dataOf, ended, eventually, follow, fresh, isConnected, join, shows, step } from './world.js'

export function watching(check: Declare): void {
  check('contract: a watcher yields the current members at once, then each change', async (world) => {
    const cluster = world.open()
    await join(cluster, { data: 'early' })
    const watcher = cluster.watchMembers()
    expect(dataOf(await step(watcher))).toEqual(['early'])
    const next = step(watcher)
    await join(cluster, { data: 'late' })
    expect(dataOf(await next)).toEqual(['early', 'late'])
  })

  check('contract: a watcher yields the very members that getMembers answers with', async (world) => {
    const cluster = world.open()
    await join(cluster)
    const members = await step(cluster.watchMembers())
    expect(Object.isFrozen(members)).toBe(true)
    expect(members[0]).toBe((await cluster.getMembers())[0])
  })

  check('contract: a watcher is its own iterator', (world) => {
    const watcher = world.open().watchMembers()
    expect(watcher[Symbol.asyncIterator]()).toBe(watcher)
    return Promise.resolve()
  })

  check('contract: a watcher does not subscribe before its first next()', async (world) => {
    const cluster = world.open()
    const watcher = cluster.watchMembers()
    await join(world.open(), { data: 'someone' })
    expect(cluster.snapshot).toBeUndefined()
    expect(cluster.status.mode).toBe('connecting')
    expect(dataOf(await step(watcher))).toEqual(['someone'])
  })

  check('contract: a watcher that was never stepped can be returned, aborted or closed', async (world) => {
    const cluster = world.open()
    const controller = new AbortController()
    const [returned, aborted, closed] = [
      cluster.watchMembers(),
      cluster.watchMembers({ signal: controller.signal }),
      cluster.watchMembers(),
    ]
    expect(await returned.return?.()).toEqual({ done: true, value: undefined })
    await ended(returned)
    controller.abort()
    await ended(aborted)
    await cluster.close()
    await ended(closed)
  })

  check('promise 11: a slow watcher sees only the newest', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster, { data: 'start' })
    const watcher = cluster.watchMembers()
    expect(dataOf(await step(watcher))).toEqual(['start'])
    for (let n = 0; n < 20; n++) await membership.setData(`change ${String(n)}`)
    expect(dataOf(await step(watcher))).toEqual(['change 19'])
    const next = step(watcher)
    await membership.setData('end')
    expect(dataOf(await next)).toEqual(['end'])
  })

  check('contract: a watcher never makes a writer wait', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster)
    const watchers = Array.from({ length: 10 }, () => cluster.watchMembers())
    await Promise.all(watchers.map(step))
    for (let n = 0; n < 20; n++)
      await bounded(membership.setData(String(n)), 'setData, with ten idle watchers')
  })

  check('contract: equal snapshots are not yielded twice in a row', async (world) => {
    const cluster = world.open()
    const other = world.open()
    const membership = await join(cluster, { data: 'a' })
    const guest = cluster.createMembership({ data: 'guest' })
    const watcher = cluster.watchMembers()
    expect(dataOf(await step(watcher))).toEqual(['a'])

    // Back to what was yielded last, while nobody asks.
    await guest.register()
    await guest.deregister()
    await membership.setData('b')
    await membership.setData('a')
    const next = step(watcher)
    await fresh(cluster)
    await membership.setData('a')
    await membership.register()
    await guest.deregister()
    await fresh(other)
    await membership.setData('c')
    expect(dataOf(await next)).toEqual(['c'])
  })

  check(
    'contract: a registration of its own makes a snapshot unequal, even with the same data',
    async (world) => {
      const cluster = world.open()
      const membership = await join(cluster, { data: 'same' })
      const watcher = cluster.watchMembers()
      const [before] = await step(watcher)
      await membership.deregister()
      await membership.register()
      const [after] = await step(watcher)
      expect(after).toMatchObject({ id: membership.id, data: 'same' })
      expect(after?.token).toBeGreaterThan(before?.token ?? Number.NaN)
    },
  )

  check(
    'contract: of a busy cluster no snapshot is yielded twice in a row, and the last is the truth',
    async (world) => {
      const cluster = world.open()
      const reader = world.open()
      const { seen, end } = follow(reader.watchMembers())
      await Promise.all(
        Array.from({ length: 5 }, async (_, m) => {
          const membership = await join(cluster, { data: `${String(m)}: start` })
          for (let n = 0; n < 5; n++) await membership.setData(`${String(m)}: ${String(n)}`)
        }),
      )
      const truth = await cluster.getMembers()
      await eventually(
        () => JSON.stringify(seen.at(-1)) === JSON.stringify(truth),
        'the watcher has the last',
      )
      await reader.close()
      await end
      for (const [index, members] of seen.entries()) {
        if (index > 0) expect(members).not.toEqual(seen[index - 1])
      }
    },
  )

  check('contract: five watchers: some abort midway and end normally, the others go on', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster, { data: 'start' })
    const controllers = Array.from({ length: 5 }, () => new AbortController())
    const followed = controllers.map(({ signal }) => follow(cluster.watchMembers({ signal })))
    const last = (index: number): string | undefined => followed[index]?.seen.at(-1)?.[0]?.data
    const all = [0, 1, 2, 3, 4]
    await eventually(() => all.every((index) => last(index) === 'start'), 'all five see the start')

    controllers[1]?.abort()
    controllers[3]?.abort(new Error('any reason'))
    await bounded(Promise.all([followed[1]?.end, followed[3]?.end]), 'the aborted two end')
    await membership.setData('midway')
    await eventually(() => [0, 2, 4].every((index) => last(index) === 'midway'), 'the others see the change')
    expect([last(1), last(3)]).toEqual(['start', 'start'])

    controllers[0]?.abort()
    await bounded(followed[0]?.end ?? Promise.reject(new Error('no watcher')), 'the first ends')
    await membership.setData('later')
    await eventually(() => [2, 4].every((index) => last(index) === 'later'), 'the last two see the change')
    expect(last(0)).toBe('midway')

    await cluster.close()
    await bounded(Promise.all(followed.map(({ end }) => end)), 'closing ends the rest')
  })

  check('contract: an abort ends a pending next()', async (world) => {
    const cluster = world.open()
    const controller = new AbortController()
    const watcher = cluster.watchMembers({ signal: controller.signal })
    await step(watcher)
    const pending = watcher.next()
    controller.abort()
    expect(await bounded(pending, 'the pending step')).toEqual({ done: true, value: undefined })
    await ended(watcher)
  })

  check('contract: after an abort nothing more is yielded, not even what was waiting', async (world) => {
    const cluster = world.open()
    const controller = new AbortController()
    const watcher = cluster.watchMembers({ signal: controller.signal })
    await step(watcher)
    await join(cluster)
    controller.abort()
    await ended(watcher)
  })

  check('contract: an abort ends the first next(), too, while the database is away', async (world) => {
    const cluster = world.open()
    await world.disconnect(cluster)
    const controller = new AbortController()
    const pending = cluster.watchMembers({ signal: controller.signal }).next()
    controller.abort()
    expect(await bounded(pending, 'the first step')).toEqual({ done: true, value: undefined })
  })

  check('contract: breaking out of the loop ends the watcher', async (world) => {
    const cluster = world.open()
    const watcher = cluster.watchMembers()
    const seen: (readonly Member[])[] = []
    for await (const members of watcher) {
      seen.push(members)
      if (members.length > 0) break
      await join(cluster, { data: 'arrived' })
    }
    expect(seen.map(dataOf)).toEqual([[], ['arrived']])
    await ended(watcher)
    await join(cluster, { data: 'after' })
    await ended(watcher)
  })

  check('contract: an error thrown in the loop ends the watcher, and reaches the caller', async (world) => {
    const cluster = world.open()
    const watcher = cluster.watchMembers()
    const failing = follow(watcher, () => {
      throw new Error('from the loop')
    })
    await expect(bounded(failing.end, 'the loop ends')).rejects.toThrow('from the loop')
    await ended(watcher)
  })

  check('contract: return() settles a pending next()', async (world) => {
    const cluster = world.open()
    const watcher = cluster.watchMembers()
    await step(watcher)
    const pending = [watcher.next(), watcher.next()]
    expect(await watcher.return?.()).toEqual({ done: true, value: undefined })
    expect(await bounded(Promise.all(pending), 'the pending steps')).toEqual([
      { done: true, value: undefined },
      { done: true, value: undefined },
    ])
    expect(await watcher.return?.()).toEqual({ done: true, value: undefined })
    await ended(watcher)
  })

  check('contract: next() calls made at once are answered in order', async (world) => {
    const cluster = world.open()
    const watcher = cluster.watchMembers()
    const steps = [step(watcher), step(watcher), step(watcher)]
    expect(await steps[0]).toEqual([])
    const membership = await join(cluster, { data: 'one' })
    expect(dataOf(await steps[1])).toEqual(['one'])
    await membership.setData('two')
    expect(dataOf(await steps[2])).toEqual(['two'])
  })

  check('contract: closing ends watchers, whether or not somebody waits', async (world) => {
    const cluster = world.open()
    const watchers = Array.from({ length: 5 }, () => cluster.watchMembers())
    await Promise.all(watchers.map(step))
    const pending = watchers.slice(0, 3).map((watcher) => watcher.next())
    await cluster.close()
    for (const result of await bounded(Promise.all(pending), 'the pending steps')) {
      expect(result).toEqual({ done: true, value: undefined })
    }
    await Promise.all(watchers.map(ended))
  })

  check('contract: watchers of one reader are independent of those of another', async (world) => {
    const [closing, staying] = [world.open(), world.open()]
    const [first, second] = [closing.watchMembers(), staying.watchMembers()]
    await Promise.all([step(first), step(second)])
    await closing.close()
    await ended(first)
    const next = step(second)
    await join(staying, { data: 'still here' })
    expect(dataOf(await next)).toEqual(['still here'])
  })

  check('promise 2: a watcher outlives a disconnection, and sees what it missed', async (world) => {
    const writer = world.open()
    const reader = world.open()
    const watcher = reader.watchMembers()
    expect(await step(watcher)).toEqual([])
    await world.disconnect(reader)
    await eventually(() => reader.status.mode === 'disconnected', 'the mode is disconnected')
    const next = step(watcher)
    await join(writer, { data: 'missed' })
    expect(reader.snapshot?.members).toEqual([])
    await world.reconnect(reader)
    expect(dataOf(await next)).toEqual(['missed'])
    await eventually(() => isConnected(reader), 'the mode is listening or polling again')
    await join(writer, { data: 'seen' })
    await shows(reader, ['missed', 'seen'])
    expect(dataOf(await step(watcher))).toEqual(['missed', 'seen'])
  })
}
