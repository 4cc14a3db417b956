import type { Change, Cluster, Member } from 'pg-membership'
import { CompactedError, diffMembers, OptionError } from 'pg-membership'
import { expect } from 'vitest'
import type { Declare } from './suite.js'
import { bounded, eventually, fresh, join, type World } from './world.js'

export function feeding(check: Declare): void {
  check('contract: a feed tells every change once, in order, with its reason', async (world) => {
    const cluster = world.open()
    const changes = await begun(world.open())
    const membership = await join(cluster, { data: 'one' })
    await membership.setData('two')
    await membership.deregister()
    await membership.register()
    const told = await take(changes, 4)
    expect(story(told)).toEqual([
      'joined registered one',
      'updated data two',
      'left deregistered two',
      'joined registered two',
    ])
    expect(told.map(({ revision }) => revision)).toEqual([1, 2, 3, 4])
    expect(new Set(told.map(({ member }) => member.id))).toEqual(new Set([membership.id]))
    expect(told.map(({ member }) => member.token)).toEqual([1, 1, 1, 4])
    const [joined, , left] = told
    expect(joined?.at).toBe(joined?.member.registeredAt)
    expect(left?.member.registeredAt).toBe(joined?.at)
    expect((left?.at ?? '') >= (joined?.at ?? '')).toBe(true)
    for (const { at } of told) expect(at).toBe(new Date(at).toISOString())
    expect(told.at(-1)?.member).toEqual(cluster.snapshot?.members[0])
  })

  check('contract: a feed tells why others took a member away, and what it carried last', async (world) => {
    const cluster = world.open()
    for (const reason of world.removals) {
      const membership = await join(cluster, { data: `to be ${reason}`, onLost: 'stay-out' })
      const { cursor = '' } = cluster.snapshot ?? {}
      await world.remove(membership.id, reason)
      const [left] = await take(cluster.watchChanges({ since: cursor }), 1)
      expect(left).toMatchObject({ kind: 'left', reason, member: { data: `to be ${reason}` } })
    }
  })

  check('contract: a feed begins with what happens after its first next()', async (world) => {
    const cluster = world.open()
    const changes = cluster.watchChanges()
    await join(world.open(), { data: 'before' })
    const first = take(changes, 1)
    // The second one asks after the feed has.
    await fresh(cluster)
    await fresh(cluster)
    await join(world.open(), { data: 'after' })
    expect(story(await first)).toEqual(['joined registered after'])
  })

  check(
    'contract: a feed goes on exactly after the cursor of a change, once it went through JSON',
    async (world) => {
      const cluster = world.open()
      const membership = await join(cluster, { data: '0' })
      for (let n = 1; n < 10; n++) await membership.setData(String(n))
      const all = await take(cluster.watchChanges({ since: cursorOf(await begunAt(world, 0)) }), 10)
      expect(all.map(({ member }) => member.data)).toEqual('0123456789'.split(''))
      expect(JSON.parse(JSON.stringify(all))).toEqual(all)
      for (const [n, change] of all.entries()) {
        const { cursor } = JSON.parse(JSON.stringify(change)) as Change
        const rest = world.open().watchChanges({ since: cursor })
        expect(await take(rest, 9 - n)).toEqual(all.slice(n + 1))
      }
    },
  )

  check('contract: a feed goes on exactly where a snapshot stands', async (world) => {
    const cluster = world.open()
    const other = world.open()
    const membership = await join(cluster, { data: 'start' })
    const cursors: string[] = []
    for (let n = 0; n < 5; n++) {
      await fresh(other)
      cursors.push(other.snapshot?.cursor ?? '')
      await membership.setData(String(n))
    }
    for (const [n, since] of cursors.entries()) {
      const [change] = await take(other.watchChanges({ since }), 1)
      expect(change?.member.data).toBe(String(n))
    }
    await fresh(other)
    expect(other.snapshot?.cursor).toBe(cluster.snapshot?.cursor)
  })

  check('contract: the snapshot of a cluster without changes has a cursor, too', async (world) => {
    const cluster = world.open()
    await fresh(cluster)
    const { cursor = 'none' } = cluster.snapshot ?? {}
    const changes = cluster.watchChanges({ since: cursor })
    const first = changes.next()
    await join(world.open(), { data: 'first' })
    expect(((await bounded(first, 'the first change')).value as Change).member.data).toBe('first')
  })

  check('contract: what a feed tells is frozen, and the same for all', async (world) => {
    const cluster = world.open()
    const feeds = await Promise.all([begun(cluster), begun(cluster), begun(world.open())])
    await join(cluster, { data: 'x' })
    const told = await Promise.all(feeds.map((changes) => take(changes, 1)))
    expect(told[1]).toEqual(told[0])
    expect(told[2]).toEqual(told[0])
    const change = told[0]?.[0]
    expect(Object.isFrozen(change)).toBe(true)
    expect(Object.isFrozen(change?.member)).toBe(true)
  })

  check(
    'contract: applying what a feed tells to one snapshot gives another, as diffMembers does',
    async (world) => {
      const cluster = world.open()
      const staying = await join(cluster, { data: 'stays' })
      const leaving = await join(cluster, { data: 'leaves' })
      const { cursor, members: before } = snapshotOf(cluster)
      await staying.setData('changed')
      await leaving.deregister()
      await join(cluster, { data: 'new' })
      const { revision, members: after } = snapshotOf(cluster)
      const told = await take(cluster.watchChanges({ since: cursor }), 3)
      expect(told.at(-1)?.revision).toBe(revision)
      const byToken = new Map(before.map((member) => [member.token, member]))
      for (const { kind, member } of told) {
        if (kind === 'left') byToken.delete(member.token)
        else byToken.set(member.token, member)
      }
      expect([...byToken.values()]).toEqual(after)
      const of = (kind: Change['kind']): Member[] =>
        told.filter((change) => change.kind === kind).map(({ member }) => member)
      const { joined, left, updated } = diffMembers(before, after)
      expect(joined).toEqual(of('joined'))
      expect(left).toEqual(of('left'))
      expect(updated.map((pair) => pair.after)).toEqual(of('updated'))
    },
  )

  check('contract: next() calls of a feed made at once are answered in order', async (world) => {
    const cluster = world.open()
    const changes = await begun(cluster)
    const steps = Array.from({ length: 3 }, () => changes.next())
    const membership = await join(cluster, { data: 'one' })
    await membership.setData('two')
    await membership.setData('three')
    const results = await bounded(Promise.all(steps), 'all steps')
    expect(results.map(({ value }) => (value as Change).member.data)).toEqual(['one', 'two', 'three'])
  })

  check(
    'contract: an abort, return() and closing end a feed, and settle its pending steps',
    async (world) => {
      const cluster = world.open()
      const controller = new AbortController()
      const [aborted, returned, closed] = [
        cluster.watchChanges({ signal: controller.signal }),
        cluster.watchChanges(),
        cluster.watchChanges(),
      ]
      const pending = [aborted, returned, closed].map((changes) =>
        Promise.all([changes.next(), changes.next()]),
      )
      const done = { done: true, value: undefined }
      controller.abort()
      expect(await bounded(pending[0] ?? Promise.reject(new Error()), 'aborted steps')).toEqual([done, done])
      expect(await returned.return?.()).toEqual(done)
      expect(await bounded(pending[1] ?? Promise.reject(new Error()), 'returned steps')).toEqual([done, done])
      await cluster.close()
      expect(await bounded(pending[2] ?? Promise.reject(new Error()), 'closed steps')).toEqual([done, done])
      for (const changes of [aborted, returned, closed, cluster.watchChanges()]) {
        expect(await bounded(changes.next(), 'a step after the end')).toEqual(done)
      }
    },
  )

  check('contract: after its end a feed yields nothing, not even what was waiting', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster, { data: '0' })
    for (let n = 1; n < 5; n++) await membership.setData(String(n))
    const controller = new AbortController()
    const changes = cluster.watchChanges({
      since: cursorOf(await begunAt(world, 0)),
      signal: controller.signal,
    })
    await take(changes, 1)
    controller.abort()
    expect(await bounded(changes.next(), 'the end')).toEqual({ done: true, value: undefined })
  })

  check('contract: breaking out of a loop over changes ends the feed', async (world) => {
    const cluster = world.open()
    await join(cluster)
    const changes = cluster.watchChanges({ since: cursorOf(await begunAt(world, 0)) })
    for await (const { kind } of changes) {
      expect(kind).toBe('joined')
      break
    }
    expect(await changes.next()).toEqual({ done: true, value: undefined })
    expect(changes[Symbol.asyncIterator]()).toBe(changes)
  })

  check('contract: a feed that was never stepped asks nothing, and can end', async (world) => {
    const cluster = world.open()
    const changes = cluster.watchChanges()
    expect(cluster.status.mode).toBe('connecting')
    expect(await changes.return?.()).toEqual({ done: true, value: undefined })
    expect(await changes.next()).toEqual({ done: true, value: undefined })
    expect(cluster.snapshot).toBeUndefined()
  })

  check('promise 2: a feed outlives a disconnection, and tells what happened meanwhile', async (world) => {
    const writer = world.open()
    const reader = world.open()
    const changes = await begun(reader)
    const membership = await join(writer, { data: 'before' })
    expect(story(await take(changes, 1))).toEqual(['joined registered before'])
    await world.disconnect(reader)
    await eventually(() => reader.status.mode === 'disconnected', 'the mode is disconnected')
    const pending = take(changes, 2)
    await membership.setData('meanwhile')
    await membership.deregister()
    await world.reconnect(reader)
    expect(story(await pending)).toEqual(['updated data meanwhile', 'left deregistered meanwhile'])
  })

  check('contract: a feed that begins during an outage tells what happens after it', async (world) => {
    const cluster = world.open()
    await world.disconnect(cluster)
    const first = cluster.watchChanges({ since: cursorOf(await begunAt(world, 0)) }).next()
    await join(world.open(), { data: 'x' })
    await world.reconnect(cluster)
    expect(((await bounded(first, 'the first change')).value as Change).member.data).toBe('x')
  })

  check('contract: what is no cursor is refused at once, and so is an unknown option', async (world) => {
    const cluster = world.open()
    await join(cluster)
    const { cursor } = snapshotOf(cluster)
    const wrong: readonly unknown[] = [
      ...[null, 0, 1, true, {}, [], [cursor], Symbol('since'), new Date(), 7n],
      ...['', '1', '.', '0', '1.', '0.0', '-1.', `0${cursor}`, ` ${cursor}`, `${cursor}\n`, `${cursor}0`],
      ...[
        cursor.toUpperCase().replace(/[0-9]/g, 'A'),
        cursor.replace('1.', '0.'),
        cursor.replace('1.', '1e3.'),
      ],
      cursor.replace('1.', '9007199254740993.'),
    ]
    for (const since of wrong) {
      expect(() => cluster.watchChanges({ since: since as string }), String(since)).toThrow(OptionError)
    }
    expect(() => cluster.watchChanges({ since: 'x' })).toThrow(/since.*"x"/)
    expect(() => cluster.watchChanges({ from: cursor } as object)).toThrow(/no option "from"/)
    expect(() => cluster.watchChanges({ signal: 1 as unknown as AbortSignal })).toThrow(OptionError)
    expect(() => cluster.watchChanges(null as unknown as object)).toThrow(OptionError)
  })

  check('contract: a cursor of another cluster, or of the future, is a CompactedError', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster)
    const other = world.open({ name: `${world.name} other` })
    await join(other)
    const { cursor } = snapshotOf(other)
    const future = cursor.replace('1.', '1000.')
    for (const since of [cursor, future]) {
      for (let n = 0; n < 2; n++) {
        const changes = cluster.watchChanges({ since })
        const [first, second] = [changes.next(), changes.next()]
        const error: unknown = await bounded(first, 'the refusal').catch((thrown: unknown) => thrown)
        expect(error).toBeInstanceOf(CompactedError)
        expect(error).toMatchObject({ code: 'COMPACTED', name: 'CompactedError' })
        expect(String(error)).toMatch(/take a fresh snapshot, and go on from its cursor/)
        expect(await second).toEqual({ done: true, value: undefined })
        expect(await changes.next()).toEqual({ done: true, value: undefined })
        await membership.setData(`${since} ${String(n)}`)
      }
    }
  })

  check('contract: feeds of many writers at once tell each change once, in one order', async (world) => {
    const clusters = [world.open(), world.open()]
    const feeds = await Promise.all(clusters.map(begun))
    await Promise.all(
      clusters.map(async (cluster) => {
        const membership = await join(cluster)
        for (let n = 0; n < 20; n++) await membership.setData(String(n))
        await membership.deregister()
      }),
    )
    const [one, two] = await Promise.all(feeds.map((changes) => take(changes, 44)))
    expect(one?.map(({ revision }) => revision)).toEqual(Array.from({ length: 44 }, (_, n) => n + 1))
    expect(two).toEqual(one)
  })
}

/** A feed whose beginning is found: what is done after this, it tells. */
async function begun(cluster: Cluster): Promise<AsyncIterableIterator<Change>> {
  await fresh(cluster)
  return cluster.watchChanges({ since: snapshotOf(cluster).cursor })
}

/** The snapshot of a cluster that nothing has happened in; all histories begin there. */
async function begunAt(world: World, revision: 0): Promise<Cluster> {
  const cluster = world.open({ name: `${world.name} empty` })
  await fresh(cluster)
  expect(cluster.snapshot?.revision).toBe(revision)
  return cluster
}

function cursorOf(cluster: Cluster): string {
  return snapshotOf(cluster).cursor
}

function snapshotOf(cluster: Cluster): NonNullable<Cluster['snapshot']> {
  if (cluster.snapshot === undefined) throw new Error('nothing is loaded')
  return cluster.snapshot
}

async function take(changes: AsyncIterator<Change>, count: number): Promise<Change[]> {
  const taken: Change[] = []
  while (taken.length < count) {
    const result = await bounded(changes.next(), `change ${String(taken.length + 1)} of ${String(count)}`)
    if (result.done === true) throw new Error('the feed ended')
    taken.push(result.value)
  }
  return taken
}

function story(changes: readonly Change[]): string[] {
  return changes.map(({ kind, reason, member }) => `${kind} ${reason} ${member.data}`)
}
