import type { Member } from 'pg-membership'
import { type Codec, json, typed, type TypedCluster } from 'pg-membership/typed'
import { expect } from 'vitest'
import type { Declare } from './suite.js'
import { bounded, eventually, fresh, join, type World } from './world.js'

interface Place {
  readonly url: string
  readonly weight: number
}

const places: Codec<Place> = json({
  '~standard': {
    version: 1,
    vendor: 'test',
    validate: (value) => {
      const { url, weight } = Object(value) as Partial<Place>
      if (typeof url !== 'string') return { issues: [{ message: 'no URL' }] }
      return { value: { url, weight: weight ?? 1 } }
    },
  },
})

function urlsOf(members: readonly { readonly data: Place }[] | undefined): string[] | undefined {
  return members?.map(({ data }) => data.url)
}

/** A view, and what its onInvalid was told. */
function open(world: World): { view: TypedCluster<Place>; told: string[]; raw: ReturnType<World['open']> } {
  const told: string[] = []
  const raw = world.open()
  const view = typed(raw, places, { onInvalid: ({ data }: Member) => told.push(data) })
  return { view, told, raw }
}

export function typedData(check: Declare): void {
  check('promise 1: data of a type is shown once setData has resolved, and others read it', async (world) => {
    const [{ view }, other] = [open(world), open(world)]
    const membership = view.createMembership({ data: { url: 'a', weight: 1 } })
    await membership.register()
    await membership.setData({ url: 'b\0', weight: 0 })
    expect(view.snapshot?.get(membership.id)?.data).toEqual({ url: 'b\0', weight: 0 })
    const [read] = await bounded(other.view.getMembers({ fresh: true }), 'a fresh read')
    expect(read).toEqual({ ...(await other.raw.getMembers())[0], data: { url: 'b\0', weight: 0 } })
  })

  check(
    'contract: a member that cannot be decoded is left out, told once, and stops nobody',
    async (world) => {
      const { view, told } = open(world)
      const cluster = world.open()
      await join(cluster, { data: '{"url":"first"}' })
      const bad = await join(cluster, { data: 'not JSON' })
      await join(cluster, { data: '{"url":"last"}' })
      expect(urlsOf(await view.getMembers({ fresh: true }))).toEqual(['first', 'last'])
      await bounded(view.getMembers({ fresh: true }), 'a fresh read')
      expect(told).toEqual(['not JSON'])
      const watcher = view.watchMembers()
      expect(urlsOf((await bounded(watcher.next(), 'the watcher yields')).value as [])).toEqual([
        'first',
        'last',
      ])
      const next = watcher.next()
      await bad.setData('{"uri":"?"}')
      await bad.setData('{"url":"good"}')
      expect(urlsOf((await bounded(next, 'the watcher yields')).value as [])).toEqual([
        'first',
        'good',
        'last',
      ])
      expect(told[0]).toBe('not JSON')
      expect(new Set(told).size).toBe(told.length)
    },
  )

  check('contract: members that did not change keep their identity', async (world) => {
    const { view, raw } = open(world)
    const kept = await join(world.open(), { data: '{"url":"kept"}' })
    const changing = view.createMembership({ data: { url: 'a', weight: 1 } })
    await changing.register()
    await fresh(raw)
    const before = view.snapshot
    expect(view.snapshot).toBe(before)
    await changing.setData({ url: 'b', weight: 1 })
    expect(view.snapshot?.get(kept.id)).toBe(before?.get(kept.id))
    expect(view.snapshot?.get(changing.id)).not.toBe(before?.get(changing.id))
  })

  check('promise 4: every change that can be decoded comes once, in order', async (world) => {
    const { view, told } = open(world)
    await view.getMembers()
    const since = view.snapshot?.cursor ?? ''
    const cluster = world.open()
    const membership = await join(cluster, { data: '{"url":"1"}' })
    await membership.setData('bad')
    await membership.setData('{"url":"2"}')
    await membership.deregister()
    const seen: string[] = []
    for await (const { kind, member } of view.watchChanges({ since })) {
      seen.push(`${kind} ${member.data.url}`)
      if (kind === 'left') break
    }
    expect(seen).toEqual(['joined 1', 'updated 2', 'left 2'])
    expect(told).toEqual(['bad'])
  })

  check('promise 8: a lost member of a view knows, and comes back with its data', async (world) => {
    const { view } = open(world)
    const membership = view.createMembership({ data: { url: 'a', weight: 1 } })
    const lease = await membership.register()
    expect(await world.fence(membership)).toBe('committed')
    await world.remove(membership.id, 'removed')
    await eventually(() => lease.signal.aborted, 'the lease ends')
    const next = await bounded(membership.whenRegistered(), 'it comes back')
    expect(next.token).toBeGreaterThan(lease.token)
    await eventually(() => view.snapshot?.get(membership.id)?.token === next.token, 'the view shows it')
    expect(membership.data).toEqual({ url: 'a', weight: 1 })
  })

  check('promise 11: closing a view closes the cluster, and ends its watchers', async (world) => {
    const { view, raw } = open(world)
    const observer = world.open()
    await view.createMembership({ data: { url: 'a', weight: 1 } }).register()
    const steps = [view.watchMembers(), view.watchChanges()] as const
    await bounded(steps[0].next(), 'the watcher yields')
    // It may be told before that its own member has left.
    const rest = async (iterator: AsyncIterableIterator<unknown>): Promise<void> => {
      while ((await iterator.next()).done !== true) continue
    }
    const pending = [rest(steps[0]), rest(steps[1])]
    await bounded(view.close(), 'close')
    await bounded(Promise.all(pending), 'the watchers end')
    expect(raw.status.mode).toBe('closed')
    expect(await fresh(observer)).toEqual([])
  })
}
