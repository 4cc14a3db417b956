import fc from 'fast-check'
import type { Member } from 'pg-membership'
import { expect } from 'vitest'
import type { Declare } from './suite.js'
import {
  bounded,
  dataOf,
  eventually,
  expectAborted,
  follow,
  fresh,
  idsOf,
  isConnected,
  join,
  shows,
  step,
} from './world.js'

export function reading(check: Declare): void {
  check('contract: before the first load there is no snapshot, and nothing to be confirmed', (world) => {
    const cluster = world.open()
    expect(cluster.name).toBe(world.name)
    expect(cluster.snapshot).toBeUndefined()
    expect(cluster.status).toMatchObject({
      mode: 'connecting',
      revision: undefined,
      ageMs: undefined,
      lastError: undefined,
    })
    return Promise.resolve()
  })

  check('contract: a cluster that nobody has joined has no members', async (world) => {
    const cluster = world.open()
    expect(await cluster.getMembers()).toEqual([])
    expect(cluster.snapshot?.members).toEqual([])
    expect(cluster.snapshot?.get('00000000-0000-4000-8000-000000000000')).toBeUndefined()
  })

  check(
    'promise 1: ten memberships registered one by one are each visible at once, and in order',
    async (world) => {
      const cluster = world.open()
      const watcher = cluster.watchMembers()
      expect(await step(watcher)).toEqual([])

      const names: string[] = []
      for (let n = 0; n < 10; n++) {
        names.push(`member ${String(n)}`)
        const membership = cluster.createMembership({ data: `member ${String(n)}` })
        const lease = await membership.register()
        expect(dataOf(cluster.snapshot?.members)).toEqual(names)
        expect(dataOf(await cluster.getMembers())).toEqual(names)
        expect(cluster.snapshot?.members.at(-1)).toMatchObject({ id: membership.id, token: lease.token })
        expect(dataOf(await step(watcher))).toEqual(names)
      }
      expectAscending((await cluster.getMembers()).map(({ token }) => token))
    },
  )

  check(
    'promise 2: what one process does shows in the watcher of another, in the same order',
    async (world) => {
      const writer = world.open()
      const watcher = world.open().watchMembers()
      expect(await step(watcher)).toEqual([])

      const first = await join(writer, { data: 'first' })
      expect(dataOf(await step(watcher))).toEqual(['first'])
      await join(writer, { data: 'second' })
      expect(dataOf(await step(watcher))).toEqual(['first', 'second'])
      await first.setData('changed')
      expect(dataOf(await step(watcher))).toEqual(['changed', 'second'])
      await first.deregister()
      expect(dataOf(await step(watcher))).toEqual(['second'])
    },
  )

  check('promise 2: when changes stop, every view is the same, down to the revision', async (world) => {
    const clusters = [world.open(), world.open(), world.open()]
    await Promise.all(
      clusters.map(async (cluster, c) => {
        for (let n = 0; n < 5; n++) {
          const membership = await join(cluster, { data: `${String(c)}.${String(n)}` })
          await membership.setData(`${String(c)}.${String(n)} changed`)
          if (n % 2 === 0) await membership.deregister()
        }
      }),
    )
    const truth = await fresh(world.open())
    expect(truth).toHaveLength(6)
    for (const cluster of clusters) {
      await shows(cluster, dataOf(truth) ?? [])
      expect(cluster.snapshot?.members).toEqual(truth)
    }
    expect(new Set(clusters.map(({ snapshot }) => snapshot?.revision)).size).toBe(1)
  })

  check('promise 3: the snapshots of one reader never go back', async (world) => {
    const reader = world.open()
    const revisions: number[] = []
    const { end } = follow(reader.watchMembers(), () => revisions.push(reader.snapshot?.revision ?? -1))

    await Promise.all(
      [world.open(), world.open()].map(async (writer) => {
        const membership = writer.createMembership()
        for (let n = 0; n < 10; n++) {
          await membership.register()
          await reader.getMembers({ fresh: true })
          revisions.push(reader.snapshot?.revision ?? -1)
          await membership.deregister()
        }
      }),
    )
    await reader.close()
    await bounded(end, 'the loop ends')
    expect(revisions).toEqual(revisions.toSorted((a, b) => a - b))
  })

  check('contract: each change of membership raises the revision by one', async (world) => {
    const cluster = world.open()
    await cluster.getMembers()
    const start = cluster.snapshot?.revision ?? Number.NaN
    const membership = await join(cluster)
    expect(cluster.snapshot?.revision).toBe(start + 1)
    await membership.setData('changed')
    expect(cluster.snapshot?.revision).toBe(start + 2)
    await membership.setData('changed')
    expect(cluster.snapshot?.revision).toBe(start + 2)
    await membership.deregister()
    expect(cluster.snapshot?.revision).toBe(start + 3)
    expect(cluster.status.revision).toBe(start + 3)
  })

  check(
    'promise 16: members[0] is the oldest registration, and everybody agrees who that is',
    async (world) => {
      const clusters = [world.open(), world.open(), world.open()]
      const memberships = await Promise.all(
        clusters.flatMap((cluster) => [join(cluster), join(cluster), join(cluster)]),
      )
      for (let remaining = memberships.length; remaining > 0; remaining--) {
        const truth = await fresh(world.open())
        expect(truth).toHaveLength(remaining)
        expectAscending(truth.map(({ token }) => token))
        const leader = truth[0]?.id
        for (const cluster of clusters) {
          expect((await fresh(cluster))[0]?.id).toBe(leader)
        }
        await memberships.find(({ id }) => id === leader)?.deregister()
      }
    },
  )

  check(
    'contract: getMembers answers with the very array of the snapshot until something changes',
    async (world) => {
      const cluster = world.open()
      await join(cluster)
      const members = await cluster.getMembers()
      expect(await cluster.getMembers()).toBe(members)
      expect(await cluster.getMembers({ fresh: true })).toBe(members)
      expect(cluster.snapshot?.members).toBe(members)
      await join(cluster)
      expect(await cluster.getMembers()).not.toBe(members)
      expect(members).toHaveLength(1)
    },
  )

  check(
    'contract: a fresh read sees what another process committed, at once, and advances the cache',
    async (world) => {
      const writer = world.open()
      const reader = world.open()
      const membership = writer.createMembership()
      for (let n = 0; n < 10; n++) {
        await membership.register()
        expect(idsOf(await reader.getMembers({ fresh: true }))).toEqual([membership.id])
        expect(idsOf(await reader.getMembers())).toEqual([membership.id])
        await membership.deregister()
        expect(await reader.getMembers({ fresh: true })).toEqual([])
        expect(reader.snapshot?.members).toEqual([])
      }
    },
  )

  check('contract: twenty first reads at once are answered alike', async (world) => {
    await join(world.open(), { data: 'there' })
    const cluster = world.open()
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, n) => cluster.getMembers({ fresh: n % 2 === 0 })),
    )
    for (const members of answers) expect(dataOf(members)).toEqual(['there'])
  })

  check('contract: members, their array and their snapshot are frozen', async (world) => {
    const cluster = world.open()
    await join(cluster, { data: 'as it was' })
    const { snapshot } = cluster
    const [member] = snapshot?.members ?? []
    expect(Object.isFrozen(snapshot)).toBe(true)
    expect(Object.isFrozen(snapshot?.members)).toBe(true)
    expect(Object.isFrozen(member)).toBe(true)
    expect(() => Object.assign(member as object, { data: 'forged' })).toThrow(TypeError)
    expect(dataOf(await cluster.getMembers())).toEqual(['as it was'])
  })

  check('contract: a member is a plain record that survives JSON', async (world) => {
    const cluster = world.open()
    await join(cluster, { data: '"\\\u0000\u{1f98a}' })
    const members = await cluster.getMembers()
    expect(JSON.parse(JSON.stringify(members))).toEqual(members)
    expect(Object.keys(members[0] ?? {}).sort()).toEqual(['data', 'id', 'registeredAt', 'token'])
    expect(members[0]?.registeredAt).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/)
    expect(Number.isSafeInteger(members[0]?.token)).toBe(true)
  })

  check('contract: unchanged members keep their identity from snapshot to snapshot', async (world) => {
    const cluster = world.open()
    const other = world.open()
    const steady = await join(cluster)
    const changing = await join(other)
    const before = await fresh(cluster)
    await changing.setData('changed')
    const after = await fresh(cluster)
    expect(find(after, steady.id)).toBe(find(before, steady.id))
    expect(find(after, changing.id)).not.toBe(find(before, changing.id))
    expect(find(before, changing.id)).toMatchObject({ data: '' })
    await changing.deregister()
    expect(find(await fresh(cluster), steady.id)).toBe(find(before, steady.id))
    await join(other)
    expect(find(await fresh(cluster), steady.id)).toBe(find(before, steady.id))
  })

  check(
    'contract: a snapshot finds its members by id, and stays as it was when others follow it',
    async (world) => {
      const cluster = world.open()
      const one = await join(cluster, { data: 'one' })
      const two = await join(cluster, { data: 'two' })
      const early = cluster.snapshot
      expect(early?.get(one.id)).toBe(early?.members[0])
      expect(early?.get(two.id)).toBe(early?.members[1])
      expect(early?.get('nobody')).toBeUndefined()
      expect(early?.get('__proto__')).toBeUndefined()

      await one.deregister()
      await two.setData('changed')
      expect(cluster.snapshot?.get(one.id)).toBeUndefined()
      expect(cluster.snapshot?.get(two.id)?.data).toBe('changed')
      expect(dataOf(early?.members)).toEqual(['one', 'two'])
      expect(early?.get(one.id)?.data).toBe('one')
      expect(early?.revision).toBeLessThan(cluster.snapshot?.revision ?? 0)
    },
  )

  check('promise 14: clusters never see one another, whatever their names are', async (world) => {
    const name = fc
      .string({ unit: 'binary', minLength: 1, maxLength: 20 })
      .filter((text) => !text.includes('\0'))
    const tricky = [
      ' ',
      "'",
      '"',
      '\\',
      '%',
      '$1',
      '$$',
      "'; drop table members; --",
      '\u{1f98a}',
      'A',
      'a',
      '\n',
    ]
    const plain = world.open()
    const inPlain = await join(plain, { data: 'plain' })
    await fc.assert(
      fc.asyncProperty(name, async (suffix) => {
        const odd = world.open({ name: `${world.name}${suffix}` })
        const inOdd = await join(odd, { data: 'odd' })
        expect(odd.name).toBe(`${world.name}${suffix}`)
        expect(dataOf(await fresh(plain))).toEqual(['plain'])
        expect(dataOf(await fresh(odd))).toEqual(['odd'])
        await inOdd.deregister()
        expect(dataOf(await fresh(plain))).toEqual(['plain'])
        await odd.close()
      }),
      { numRuns: 20, examples: tricky.map((suffix): [string] => [suffix]) },
    )
    await inPlain.deregister()
  })

  check('contract: the status tells the mode, since when, and how old the cache is', async (world) => {
    const cluster = world.open()
    await cluster.getMembers()
    await eventually(() => isConnected(cluster), 'the mode is listening or polling')
    expect(cluster.status.since).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/)
    expect(cluster.status.revision).toBe(cluster.snapshot?.revision)
    expect(cluster.status.ageMs).toBeGreaterThanOrEqual(0)
    await world.disconnect(cluster)
    await eventually(() => cluster.status.mode === 'disconnected', 'the mode is disconnected')
    await world.reconnect(cluster)
    await eventually(() => isConnected(cluster), 'the mode is listening or polling again')
    await cluster.close()
    expect(cluster.status.mode).toBe('closed')
  })

  check(
    'contract: the cache answers while the database is away, and a fresh read waits for it',
    async (world) => {
      const writer = world.open()
      const reader = world.open()
      await join(writer, { data: 'steady' })
      const before = await fresh(reader)
      await world.disconnect(reader)
      await eventually(() => reader.status.mode === 'disconnected', 'the mode is disconnected')

      await join(writer, { data: 'missed' })
      expect(await reader.getMembers()).toBe(before)
      const controller = new AbortController()
      const impatient = reader.getMembers({ fresh: true, signal: controller.signal })
      const patient = reader.getMembers({ fresh: true })
      controller.abort('enough')
      await expectAborted(impatient, 'enough')

      await world.reconnect(reader)
      const after = await bounded(patient, 'the fresh read')
      expect(dataOf(after)).toEqual(['steady', 'missed'])
      expect(after[0]).toBe(before[0])
    },
  )

  check(
    'contract: a first read waits for a database that is away, as long as its signal lets it',
    async (world) => {
      await join(world.open(), { data: 'there' })
      const reader = world.open()
      await world.disconnect(reader)
      const controller = new AbortController()
      const impatient = reader.getMembers({ signal: controller.signal })
      const patient = reader.getMembers()
      const watcher = reader.watchMembers()
      const first = step(watcher)
      await eventually(() => reader.status.lastError !== undefined, 'the status has an error to tell')
      const reason = new Error('enough')
      controller.abort(reason)
      expect((await expectAborted(impatient, reason)).lastError).toBeInstanceOf(Error)

      await world.reconnect(reader)
      expect(dataOf(await bounded(patient, 'the first read'))).toEqual(['there'])
      expect(dataOf(await first)).toEqual(['there'])
    },
  )
}

function find(members: readonly Member[], id: string): Member | undefined {
  return members.find((member) => member.id === id)
}

function expectAscending(tokens: readonly number[]): void {
  expect(tokens).toEqual([...new Set(tokens)].sort((a, b) => a - b))
}
