/** pg-membership/typed, in memory; on both stores: test/conformance/typed.ts. */
import type { StandardSchemaV1 as TheirSchema } from '@standard-schema/spec'
import { type } from 'arktype'
import { type Change, type Member, OptionError, type Snapshot } from 'pg-membership'
import { MemoryCluster, MemoryWorld } from 'pg-membership/memory'
import { Router } from 'pg-membership/routing'
import { type Codec, json, type StandardSchemaV1, typed, type TypedCluster } from 'pg-membership/typed'
import * as v from 'valibot'
import { expect, onTestFinished, test } from 'vitest'
import { z } from 'zod'

interface Place {
  readonly url: string
  readonly weight: number
}

const SCHEMAS: Readonly<Record<string, StandardSchemaV1<unknown, Place>>> = {
  zod: z.object({ url: z.string(), weight: z.number().min(0) }),
  valibot: v.object({ url: v.string(), weight: v.pipe(v.number(), v.minValue(0)) }),
  arktype: type({ url: 'string', weight: 'number >= 0' }),
}
const PLACE = { url: 'http://a', weight: 1 }

function open(world?: MemoryWorld): MemoryCluster {
  const cluster = new MemoryCluster({ name: 'typed', ...(world && { world }) })
  onTestFinished(() => cluster.close())
  return cluster
}

/** A schema that answers what a test says. */
function answering<T>(answer: (value: unknown) => unknown): StandardSchemaV1<unknown, T> {
  return { '~standard': { version: 1, vendor: 'test', validate: answer as never } }
}

/** Counts what it decodes. */
function counting(): Codec<number> & { decoded: string[] } {
  const decoded: string[] = []
  return {
    decoded,
    encode: String,
    decode(data) {
      decoded.push(data)
      if (Number.isNaN(Number(data))) throw new RangeError(`not a number: ${data}`)
      return Number(data)
    },
  }
}

async function take<T>(steps: AsyncIterator<T, undefined>, count: number): Promise<T[]> {
  const taken: T[] = []
  while (taken.length < count) {
    const { done, value } = await steps.next()
    if (done === true) throw new Error('it ended')
    taken.push(value)
  }
  return taken
}

/** Of the one list that was taken. */
function dataOf(lists: readonly (readonly { readonly data: number }[])[]): number[] | undefined {
  return lists[0]?.map(({ data }) => data)
}

test.each(Object.entries(SCHEMAS))(
  'json: a schema of %s tells the type, and refuses what does not fit',
  (_, schema) => {
    const codec = json(schema)
    expect(codec.decode(codec.encode(PLACE))).toEqual(PLACE)
    for (const data of [
      '',
      'null',
      '{}',
      '{"url":"a","weight":-1}',
      '{"url":1,"weight":1}',
      '[',
      '"\\ud800"',
    ]) {
      expect(() => codec.decode(data)).toThrow(/schema|JSON/)
    }
    expect(() => codec.encode({ url: 'a', weight: -1 }), 'what nobody could read').toThrow(/weight/)
  },
)

test('json: the type of the standard is that of its own package', () => {
  const theirs: TheirSchema<unknown, Place> = SCHEMAS.zod as TheirSchema<unknown, Place>
  const ours: StandardSchemaV1<unknown, Place> = theirs
  expect(json(ours).decode(JSON.stringify(PLACE))).toEqual(PLACE)
})

test('json: issues are told with their paths, and kept as the cause', () => {
  const schema = answering(() => ({ issues: [{ message: 'bad', path: ['a', { key: 0 }, Symbol('s')] }, { message: 'worse' }] })) // prettier-ignore
  const error: unknown = (() => {
    try {
      return json(schema).decode('1')
    } catch (thrown) {
      return thrown
    }
  })()
  expect(error).toBeInstanceOf(TypeError)
  expect(error).toMatchObject({ message: 'Refused by the schema: a.0.Symbol(s): bad; worse' })
  expect((error as Error).cause).toHaveLength(2)
})

test('promise 12: json refuses a schema that answers with a promise, also one that rejects', async () => {
  for (const answer of [
    Promise.resolve({ value: 1 }),
    Promise.reject(new Error('late')),
    { then: () => 1 },
  ]) {
    const codec = json(answering(() => answer))
    expect(() => codec.decode('1')).toThrow(/promise: asynchronous validation is not possible/)
    expect(() => codec.encode(1)).toThrow(/promise/)
  }
  await new Promise(setImmediate)
})

test('json: without a schema, whatever JSON can say', () => {
  const codec = json<unknown>()
  for (const value of [null, 1, 'text', [1, [2]], { a: { b: '\0' } }]) {
    expect(codec.decode(codec.encode(value))).toEqual(value)
  }
  for (const value of [undefined, () => 1, Symbol('s'), 1n])
    expect(() => codec.encode(value)).toThrow(TypeError)
  const circle: Record<string, unknown> = {}
  circle.self = circle
  expect(() => codec.encode(circle)).toThrow(TypeError)
})

test('what is not a schema, a cluster, a codec or an option is refused', () => {
  for (const schema of [null, 1, 'text', {}, { '~standard': {} }, { '~standard': null }, () => true]) {
    expect(() => json(schema as never)).toThrow(TypeError)
  }
  const cluster = open()
  for (const one of [undefined, null, {}, 'cluster', { snapshot: undefined }]) {
    expect(() => typed(one as never, json())).toThrow(/needs a cluster/)
  }
  for (const codec of [undefined, null, {}, JSON, { encode: String }]) {
    expect(() => typed(cluster, codec as never)).toThrow(/needs a codec/)
  }
  for (const options of [null, [], 'text', { onInvalid: 1 }, { onInvalid: null }, { oninvalid: () => 1 }]) {
    expect(() => typed(cluster, json(), options as never)).toThrow(OptionError)
  }
})

test('a membership is created and changed with data of the type, or not at all', async () => {
  const cluster = open()
  const view = typed(cluster, json(SCHEMAS.zod))
  expect(() => view.createMembership({} as never)).toThrow(TypeError)
  expect(() => view.createMembership({ data: { url: 'a' } } as never)).toThrow(/weight/)
  for (const options of [undefined, null, 1, { data: PLACE, onlost: 'stay-out' }]) {
    expect(() => view.createMembership(options as never)).toThrow(OptionError)
  }
  const membership = view.createMembership({ data: PLACE, onLost: 'stay-out' })
  expect(membership.data).toBe(PLACE)
  await membership.register()
  await expect(membership.setData({ url: 'a' } as never)).rejects.toThrow(/weight/)
  await expect(membership.setData({ url: '\ud800', weight: 1 }.url as never)).rejects.toThrow(TypeError)
  expect(membership.data).toBe(PLACE)
  const next = { url: 'b', weight: 0 }
  const set = membership.setData(next)
  expect(membership.data, 'at once, as with strings').toBe(next)
  await set
  expect(view.snapshot?.get(membership.id)?.data).toEqual(next)
})

test('data that the database could not store is refused, and the last value stays', async () => {
  const raw: Codec<string> = { encode: (value) => value, decode: (data) => data }
  const membership = typed(open(), raw).createMembership({ data: 'good' })
  for (const bad of ['\ud800', 'x'.repeat((1 << 20) + 1), 7 as never]) {
    await expect(membership.setData(bad)).rejects.toThrow()
    expect(membership.data).toBe('good')
  }
  const broken: Codec<string> = { encode: () => 7 as never, decode: (data) => data }
  expect(() => typed(open(), broken).createMembership({ data: 'x' })).toThrow(TypeError)
})

test('each value is decoded once, however often it is read, and again when it changes', async () => {
  const cluster = open()
  const codec = counting()
  const view = typed(cluster, codec)
  const [one, other] = [view.createMembership({ data: 1 }), view.createMembership({ data: 2 })]
  await Promise.all([one.register(), other.register()])
  for (let n = 0; n < 5; n++) {
    await view.getMembers({ fresh: true })
    view.snapshot?.get(one.id)
    await view.watchMembers().next()
  }
  expect(codec.decoded.sort()).toEqual(['1', '2'])
  const kept = view.snapshot?.get(other.id)
  await one.setData(3)
  expect(view.snapshot?.get(one.id)?.data).toBe(3)
  expect(view.snapshot?.get(other.id), 'identity').toBe(kept)
  expect(codec.decoded.sort()).toEqual(['1', '2', '3'])
})

test('onInvalid hears of each value once, whoever reads it', async () => {
  const cluster = open()
  const told: string[] = []
  const view = typed(cluster, counting(), {
    onInvalid: ({ data }, error) => told.push(`${data}: ${String(error)}`),
  })
  const feed = view.watchChanges()
  const first = feed.next()
  const good = view.createMembership({ data: 1 })
  await good.register()
  await first
  const bad = cluster.createMembership({ data: 'bad' })
  await bad.register()
  const read = async (): Promise<void> => {
    expect(view.snapshot?.members.map(({ data }) => data)).toEqual([1])
    expect(view.snapshot?.get(bad.id)).toBeUndefined()
    await view.getMembers({ fresh: true })
    await view.watchMembers().next()
  }
  await read()
  await good.setData(2)
  await good.setData(1)
  await take(feed, 2)
  await read()
  expect(told).toEqual(['bad: RangeError: not a number: bad'])

  await bad.setData('worse')
  await read()
  await bad.setData('3')
  expect(view.snapshot?.members.map(({ data }) => data)).toEqual([1, 3])
  await bad.setData('worse')
  await read()
  await bad.deregister()
  await read()
  expect(told.map((text) => text.slice(0, 5))).toEqual(['bad: ', 'worse', 'worse'])
})

test('a feed tells of values that snapshots no longer have, and of each one once', async () => {
  const cluster = open()
  await cluster.getMembers()
  const since = cluster.snapshot?.cursor ?? ''
  const bad = cluster.createMembership({ data: 'bad' })
  await bad.register()
  await bad.setData('worse')
  await bad.deregister()
  const told: string[] = []
  const view = typed(cluster, counting(), { onInvalid: ({ data }) => told.push(data) })
  const good = view.createMembership({ data: 1 })
  await good.register()
  const [change] = await take(view.watchChanges({ since }), 1)
  expect(change).toMatchObject({ kind: 'joined', revision: 4, member: { id: good.id, data: 1 } })
  expect(Object.isFrozen(change)).toBe(true)
  expect(told).toEqual(['bad', 'worse'])
})

test('a value that a feed meets before the snapshot has it is told once', async () => {
  const member = { id: 'a', data: 'bad', token: 2, registeredAt: '2026-01-01T00:00:00.000Z' }
  const get = (): Member => member
  const snapshots: Snapshot[] = [
    { revision: 1, cursor: '1', members: [], get: () => undefined },
    { revision: 2, cursor: '2', members: [member], get },
  ]
  const change: Change = { cursor: '2', revision: 2, at: member.registeredAt, kind: 'joined', reason: 'registered', member } // prettier-ignore
  const ahead = Object.assign(open(), {
    watchChanges: async function* () {
      yield change
    },
  })
  let snapshot = snapshots[0]
  Object.defineProperty(ahead, 'snapshot', { get: () => snapshot })
  const told: string[] = []
  const view = typed(ahead, counting(), { onInvalid: ({ data }) => told.push(data) })
  expect(view.snapshot?.members).toEqual([])
  expect((await view.watchChanges().next()).done).toBe(true)
  expect(told).toEqual(['bad'])
  snapshot = snapshots[1]
  expect(view.snapshot?.members).toEqual([])
  expect(told).toEqual(['bad'])
})

test('promise 12: an onInvalid that throws, rejects or reads again stops nothing', async () => {
  const listeners: Readonly<Record<string, (view: () => TypedCluster<number>) => unknown>> = {
    throws: () => {
      throw new Error('thrown')
    },
    rejects: () => Promise.reject(new Error('rejected')),
    reads: (view) => view().snapshot?.members,
  }
  for (const [does, listener] of Object.entries(listeners)) {
    const cluster = open()
    const onInvalid = (): void => listener(() => view) as undefined
    const view: TypedCluster<number> = typed(cluster, counting(), { onInvalid })
    await cluster.createMembership({ data: 'bad' }).register()
    await view.createMembership({ data: 1 }).register()
    expect((await view.getMembers()).map(({ data }) => data)).toEqual([1])
    const [members] = await take(view.watchMembers(), 1)
    expect(members, does).toBe(view.snapshot?.members)
    await new Promise(setImmediate)
  }
})

test('a watcher yields when the typed list changes, and only then', async () => {
  const cluster = open()
  const view = typed(cluster, counting())
  const good = view.createMembership({ data: 1 })
  await good.register()
  const watcher = view.watchMembers()
  const [list] = await take(watcher, 1)
  const snapshot = view.snapshot
  const next = take(watcher, 1)
  const bad = cluster.createMembership({ data: 'bad' })
  await bad.register()
  await bad.setData('worse')
  expect(view.snapshot).not.toBe(snapshot)
  expect(view.snapshot?.members, 'a router makes no new ring').toBe(list)
  // There and back again, while nobody asks, is nothing new.
  await bad.deregister()
  await good.setData(2)
  expect(dataOf(await next)).toEqual([2])
  const after = take(watcher, 1)
  await good.setData(3)
  expect(dataOf(await after)).toEqual([3])
  const [pending, later] = [watcher.next(), watcher.next()]
  await watcher.return?.()
  expect([await pending, await later, await watcher.next()]).toEqual(
    Array(3).fill({ done: true, value: undefined }),
  )
})

test('equal lists are not yielded twice in a row, though all was decoded again', async () => {
  const cluster = open()
  const view = typed(cluster, counting())
  const good = view.createMembership({ data: 1 })
  await good.register()
  const watcher = view.watchMembers()
  await take(watcher, 1)
  const bad = cluster.createMembership({ data: 'bad' })
  await bad.register()
  await good.setData(2)
  await good.setData(1)
  const next = take(watcher, 1)
  await new Promise(setImmediate)
  await good.setData(5)
  expect(dataOf(await next)).toEqual([5])
})

test('steps that wait together are answered in their order', async () => {
  const cluster = open()
  const view = typed(cluster, counting())
  const feed = view.watchChanges()
  const steps = [1, 2, 3].map(() => take(feed, 1))
  for (const data of ['1', 'x', '2', 'y', 'z', '3']) {
    const membership = cluster.createMembership({ data })
    await membership.register()
  }
  expect((await Promise.all(steps)).map(([change]) => change?.member.data)).toEqual([1, 2, 3])
})

test('a view delegates, and closing it closes the cluster', async () => {
  const world = new MemoryWorld()
  const [cluster, other] = [open(world), open(world)]
  const view = typed(cluster, counting())
  expect([view.name, view.status.mode, view.snapshot]).toEqual(['typed', 'connecting', undefined])
  const membership = view.createMembership({ data: 1 })
  const waiting = membership.whenRegistered()
  const lease = await membership.register()
  expect(await waiting).toBe(lease)
  expect(membership.lease).toBe(lease)
  expect(view.snapshot).toMatchObject({ revision: 1, cursor: cluster.snapshot?.cursor })
  expect(view.snapshot).toBe(view.snapshot)
  expect(view.snapshot?.get(membership.id.toUpperCase())?.token).toBe(lease.token)
  for (const frozen of [view.snapshot, view.snapshot?.members, view.snapshot?.members[0]]) {
    expect(Object.isFrozen(frozen)).toBe(true)
  }
  await membership.fence({ query: () => Promise.resolve() })
  await membership[Symbol.asyncDispose]()
  expect([membership.lease, await other.getMembers({ fresh: true })]).toEqual([undefined, []])
  await membership.register()
  await membership.deregister()
  const watcher = view.watchMembers()
  await take(watcher, 1)
  const pending = watcher.next()
  await view[Symbol.asyncDispose]()
  expect([(await pending).done, cluster.status.mode]).toEqual([true, 'closed'])
  await expect(view.getMembers()).rejects.toMatchObject({ code: 'CLOSED' })
})

test('a router follows a typed view', async () => {
  const view = typed(open(), json(SCHEMAS.zod))
  const router = new Router(view, { weight: ({ data }) => data.weight, key: ({ data }) => data.url })
  const [one, draining] = [PLACE, { url: 'http://b', weight: 0 }].map((data) =>
    view.createMembership({ data }),
  )
  await Promise.all([one?.register(), draining?.register()])
  expect(router.owner('x')?.data.url).toBe('http://a')
  await one?.setData({ url: 'http://a', weight: 0 })
  await draining?.setData({ url: 'http://b', weight: 0.5 })
  expect(router.owner('x')?.data.url).toBe('http://b')
})

test('a change keeps all but the data of the member as it was', async () => {
  const cluster = open()
  const feeds = [cluster.watchChanges(), typed(cluster, counting()).watchChanges()] as const
  const [raw, view] = [take(feeds[0], 1), take(feeds[1], 1)]
  await cluster.createMembership({ data: '7' }).register()
  const expected = (await raw).map((change) => ({ ...change, member: { ...change.member, data: 7 } }))
  expect(await view).toEqual(expected)
})
