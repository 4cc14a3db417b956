import type { Cluster, Membership } from 'pg-membership'
import { ClosedError, DeregisteredError, OptionError } from 'pg-membership'
import { Leader, type Term } from 'pg-membership/leader'
import { expect } from 'vitest'
import type { Declare } from './suite.js'
import {
  abortOf,
  bounded,
  eventually,
  expectAborted,
  idsOf,
  join,
  SHORT_TTL_MS,
  type World,
} from './world.js'

interface Candidate {
  readonly cluster: Cluster
  readonly membership: Membership
  readonly leader: Leader
}

/** Registers, one after another, each in a process of its own. */
async function candidates(world: World, count: number, options = {}): Promise<[Candidate, ...Candidate[]]> {
  const all: Candidate[] = []
  for (let n = 0; n < count; n++) {
    const cluster = world.open(options)
    const membership = await join(cluster)
    all.push({ cluster, membership, leader: new Leader(cluster, membership) })
  }
  const [first, ...others] = all
  if (first === undefined) throw new Error('no candidate')
  const { cluster } = all.at(-1) ?? first
  await eventually(
    () => all.every(({ cluster: one }) => one.snapshot?.revision === cluster.snapshot?.revision),
    'all see all',
  )
  return [first, ...others]
}

async function stepOf(terms: AsyncIterator<Term>): Promise<Term> {
  const step = await bounded(terms.next(), 'a term')
  if (step.done === true) throw new Error('the terms ended')
  return step.value
}

async function endOf(terms: AsyncIterator<Term>): Promise<void> {
  expect(await bounded(terms.next(), 'the terms end')).toEqual({ done: true, value: undefined })
}

export function leading(check: Declare): void {
  check('promise 16: the oldest registration leads, and no other', async (world) => {
    const [one, two, three] = await candidates(world, 3)
    expect(one.leader.term?.token).toBe(one.membership.lease?.token)
    expect(one.leader.term).toBe(one.leader.term)
    expect([two?.leader.term, three?.leader.term]).toEqual([undefined, undefined])
    expect(one.leader.term?.signal.aborted).toBe(false)
  })

  check('promise 16: who is not registered has no term', async (world) => {
    const cluster = world.open()
    const leader = new Leader(cluster, cluster.createMembership())
    expect(leader.term).toBeUndefined()
    await cluster.getMembers()
    expect(leader.term).toBeUndefined()
  })

  check(
    'promise 16: when the leader deregisters its term ends, and the next in line leads',
    async (world) => {
      const [one, two] = await candidates(world, 2)
      const terms = two?.leader.terms()
      const next = terms && stepOf(terms)
      const { term } = one.leader
      await one.membership.deregister()
      expect(term?.signal.aborted).toBe(true)
      expect(term?.signal.reason).toBeInstanceOf(DeregisteredError)
      expect(one.leader.term).toBeUndefined()
      const token = two?.membership.lease?.token
      expect((await next)?.token).toBe(token)
      expect(two?.leader.term?.token).toBe(token)
    },
  )

  check(
    'promise 16: a leader that others remove loses its term, and comes back at the end of the line',
    async (world) => {
      const [one, two] = await candidates(world, 2)
      const { term } = one.leader
      await world.remove(one.membership.id, 'removed')
      if (term === undefined) throw new Error('it leads')
      await abortOf(term.signal)
      await eventually(() => two?.leader.term !== undefined, 'the other leads')
      await bounded(one.membership.whenRegistered(), 'it is back')
      await eventually(() => one.cluster.snapshot?.members.length === 2, 'it sees both')
      expect(one.leader.term).toBeUndefined()
    },
  )

  check(
    'promises 8 and 16: silence ends a term; after it the same registration has another one',
    async (world) => {
      const [one] = await candidates(world, 1, { ttlMs: SHORT_TTL_MS })
      const terms = one.leader.terms()
      const first = await stepOf(terms)
      await world.disconnect(one.cluster)
      expect(await abortOf(first.signal)).toMatchObject({ reason: 'unreachable' })
      expect(one.leader.term).toBeUndefined()
      await world.reconnect(one.cluster)
      const second = await stepOf(terms)
      expect(second).not.toBe(first)
      expect(second.token).toBe(first.token)
      expect(second.signal.aborted).toBe(false)
    },
  )

  check('promise 13: a term fences its very registration', async (world) => {
    const [one] = await candidates(world, 1)
    const { term } = one.leader
    if (term === undefined) throw new Error('it leads')
    expect(await world.fence(term)).toBe('committed')
    await one.membership.deregister()
    expect(await world.fence(term)).toBe('refused')
    await one.membership.register()
    expect(await world.fence(term)).toBe('refused')
    const { term: next } = one.leader
    expect(next?.token).toBeGreaterThan(term.token)
    expect(next && (await world.fence(next))).toBe('committed')
  })

  check('contract: a term refuses to fence with what is no client', async (world) => {
    const [one] = await candidates(world, 1)
    for (const client of [
      undefined,
      null,
      {},
      { query: 'select' },
      { query: () => undefined, totalCount: 1 },
    ]) {
      await expect(one.leader.term?.fence(client as never)).rejects.toThrow(TypeError)
    }
  })

  check('contract: terms() yields each term when it begins, and skips none that lasts', async (world) => {
    const cluster = world.open()
    const membership = cluster.createMembership()
    const leader = new Leader(cluster, membership)
    const terms = leader.terms()
    const tokens: number[] = []
    for (let n = 0; n < 3; n++) {
      const next = stepOf(terms)
      const { token } = await membership.register()
      tokens.push(token)
      expect((await next).token).toBe(token)
      await membership.deregister()
    }
    expect(tokens).toEqual([...new Set(tokens)].toSorted((a, b) => a - b))
  })

  check('contract: a term that ended before it was asked for is left out', async (world) => {
    const [one] = await candidates(world, 1)
    const terms = one.leader.terms()
    await stepOf(terms)
    await one.membership.deregister()
    await one.membership.register()
    expect(one.leader.term).toBeDefined()
    await one.membership.deregister()
    const next = stepOf(terms)
    const { token } = await one.membership.register()
    expect((await next).token).toBe(token)
  })

  check('contract: who resigns goes to the end of the line', async (world) => {
    const [one, two, three] = await candidates(world, 3)
    const { term } = one.leader
    const resigned = one.leader.resign()
    expect(term?.signal.aborted).toBe(true)
    expect(one.leader.term).toBeUndefined()
    await bounded(resigned, 'it is registered again')
    expect(one.membership.lease?.token).toBeGreaterThan(three?.membership.lease?.token ?? Infinity)
    await eventually(() => two?.leader.term !== undefined, 'the next one leads')
    expect(one.leader.term).toBeUndefined()
    const members = await one.cluster.getMembers({ fresh: true })
    expect(idsOf(members)?.at(-1)).toBe(one.membership.id)
  })

  check('contract: who is alone resigns, and leads again with a higher token', async (world) => {
    const [one] = await candidates(world, 1)
    const { term } = one.leader
    await Promise.all([one.leader.resign(), one.leader.resign()])
    expect(one.leader.term?.token).toBeGreaterThan(term?.token ?? Infinity)
  })

  check('contract: resign is a no-op for who does not lead', async (world) => {
    const [, two] = await candidates(world, 2)
    const lease = two?.membership.lease
    await two?.leader.resign()
    expect(two?.membership.lease).toBe(lease)
    const cluster = world.open()
    const membership = cluster.createMembership()
    await new Leader(cluster, membership).resign()
    expect(membership.lease).toBeUndefined()
  })

  check(
    'contract: who resigns while it is asked to register gives its lead up all the same',
    async (world) => {
      const [one, two] = await candidates(world, 2)
      const token = one.membership.lease?.token ?? 0
      const resigned = one.leader.resign()
      await Promise.allSettled([one.membership.register(), one.membership.register()])
      await bounded(resigned, 'it has resigned')
      expect(one.membership.lease?.token).toBeGreaterThan(token)
      await eventually(() => two?.leader.term !== undefined, 'the other leads')
    },
  )

  check('contract: an aborted signal ends terms() normally, and rejects resign()', async (world) => {
    const [one] = await candidates(world, 1)
    const controller = new AbortController()
    const terms = one.leader.terms({ signal: controller.signal })
    await stepOf(terms)
    const ended = endOf(terms)
    controller.abort('enough')
    await ended
    await endOf(terms)
    await endOf(one.leader.terms({ signal: controller.signal }))
    await expectAborted(one.leader.resign({ signal: controller.signal }), 'enough')
  })

  check('contract: return() settles a pending next() of terms()', async (world) => {
    const [, two] = await candidates(world, 2)
    const terms = two?.leader.terms()
    const pending = terms && endOf(terms)
    await terms?.return?.()
    await pending
  })

  check('contract: closing the cluster ends the term and terms()', async (world) => {
    const [one] = await candidates(world, 1)
    const { term } = one.leader
    const terms = one.leader.terms()
    await stepOf(terms)
    const ended = endOf(terms)
    await one.cluster.close()
    await ended
    expect(term?.signal.reason).toBeInstanceOf(ClosedError)
    expect(one.leader.term).toBeUndefined()
    await endOf(one.leader.terms())
  })

  check('contract: a leader needs a cluster of this package, and a membership', async (world) => {
    const cluster = world.open()
    const membership = cluster.createMembership()
    for (const other of [undefined, null, {}, Object.create(cluster)]) {
      expect(() => new Leader(other as Cluster, membership)).toThrow(TypeError)
    }
    for (const other of [undefined, null, {}, 'id']) {
      expect(() => new Leader(cluster, other as Membership)).toThrow(OptionError)
    }
    const leader = new Leader(cluster, membership)
    for (const options of [null, 1, { signal: 'no' }]) {
      expect(() => leader.terms(options as never)).toThrow()
      await expect(leader.resign(options as never)).rejects.toThrow()
    }
  })
}
