import fc from 'fast-check'
import { AbortedError, DeregisteredError, MembershipError } from 'pg-membership'
import { expect } from 'vitest'
import type { Declare } from './suite.js'
import {
  bounded,
  dataOf,
  eventually,
  expectAborted,
  fresh,
  idsOf,
  isConnected,
  join,
  shows,
} from './world.js'

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

export function registering(check: Declare): void {
  check('contract: a membership is invisible until it registers', async (world) => {
    const cluster = world.open()
    const membership = cluster.createMembership({ data: 'not yet' })
    expect(membership.id).toMatch(UUID)
    expect(membership.data).toBe('not yet')
    expect(membership.lease).toBeUndefined()
    expect(await fresh(cluster)).toEqual([])
    expect(await fresh(world.open())).toEqual([])
  })

  check('promise 1: register resolves once this snapshot shows the registration', async (world) => {
    const cluster = world.open()
    const membership = cluster.createMembership({ data: 'here' })
    const lease = await membership.register()
    expect(cluster.snapshot?.get(membership.id)).toMatchObject({ data: 'here', token: lease.token })
    expect(membership.lease).toBe(lease)
    expect(lease.signal.aborted).toBe(false)
  })

  check(
    'promise 1: deregister resolves once this snapshot no longer shows the registration',
    async (world) => {
      const cluster = world.open()
      const membership = await join(cluster)
      await membership.deregister()
      expect(cluster.snapshot?.members).toEqual([])
      expect(membership.lease).toBeUndefined()
    },
  )

  check('contract: registering twice is registering once', async (world) => {
    const cluster = world.open()
    const membership = cluster.createMembership()
    const lease = await membership.register()
    const revision = cluster.snapshot?.revision
    expect(await membership.register()).toBe(lease)
    await fresh(cluster)
    expect(cluster.snapshot?.revision).toBe(revision)
  })

  check('contract: twenty registers at once make one registration and share its lease', async (world) => {
    const cluster = world.open()
    await cluster.getMembers()
    const start = cluster.snapshot?.revision ?? Number.NaN
    const membership = cluster.createMembership()
    const leases = await Promise.all(Array.from({ length: 20 }, () => membership.register()))
    expect(new Set(leases).size).toBe(1)
    expect(membership.lease).toBe(leases[0])
    expect(idsOf(await fresh(cluster))).toEqual([membership.id])
    expect(cluster.snapshot?.revision).toBe(start + 1)
  })

  check('contract: deregistering twice, at once, or without having registered is a no-op', async (world) => {
    const cluster = world.open()
    const membership = cluster.createMembership()
    await membership.deregister()
    await membership.register()
    const revision = cluster.snapshot?.revision ?? Number.NaN
    await Promise.all(Array.from({ length: 20 }, () => membership.deregister()))
    await membership.deregister()
    expect(await fresh(cluster)).toEqual([])
    expect(cluster.snapshot?.revision).toBe(revision + 1)
  })

  check(
    'contract: registering again keeps the id, gets a higher token, and goes to the end',
    async (world) => {
      const cluster = world.open()
      const coming = cluster.createMembership({ data: 'coming and going' })
      const { id } = coming
      let token = (await coming.register()).token
      await join(cluster, { data: 'steady' })
      for (let n = 0; n < 5; n++) {
        await coming.deregister()
        expect(dataOf(await cluster.getMembers())).toEqual(['steady'])
        const lease = await coming.register()
        expect(lease.token).toBeGreaterThan(token)
        token = lease.token
        expect(coming.id).toBe(id)
        expect(dataOf(await cluster.getMembers())).toEqual(['steady', 'coming and going'])
        expect(cluster.snapshot?.get(id)?.token).toBe(token)
      }
    },
  )

  check(
    'contract: fifty memberships of one process register at once, each with a token of its own',
    async (world) => {
      const cluster = world.open()
      await cluster.getMembers()
      const start = cluster.snapshot?.revision ?? Number.NaN
      const memberships = Array.from({ length: 50 }, () => cluster.createMembership({ data: 'alike' }))
      const leases = await Promise.all(memberships.map((membership) => membership.register()))
      expect(new Set(memberships.map(({ id }) => id)).size).toBe(50)
      expect(new Set(leases.map(({ token }) => token)).size).toBe(50)
      expect(idsOf(cluster.snapshot?.members)?.sort()).toEqual(idsOf(memberships)?.sort())
      expect(cluster.snapshot?.revision).toBe(start + 50)
      await Promise.all(memberships.map((membership) => membership.deregister()))
      expect(cluster.snapshot?.members).toEqual([])
      expect(cluster.snapshot?.revision).toBe(start + 100)
    },
  )

  check(
    'contract: the lease is given up with a DeregisteredError before the registration goes',
    async (world) => {
      const cluster = world.open()
      const membership = await join(cluster)
      const lease = await membership.register()
      const atTheEnd: { stillListed?: boolean; leaseKnown?: boolean } = {}
      lease.signal.addEventListener('abort', () => {
        atTheEnd.stillListed = cluster.snapshot?.get(membership.id) !== undefined
        atTheEnd.leaseKnown = membership.lease !== undefined
      })
      await membership.deregister()
      expect(atTheEnd).toEqual({ stillListed: true, leaseKnown: false })
      expect(lease.signal.reason).toBeInstanceOf(DeregisteredError)
      expect(lease.signal.reason).toMatchObject({ code: 'DEREGISTERED' })
      expect(lease.signal.reason).toBeInstanceOf(MembershipError)
    },
  )

  check('contract: whenRegistered waits for the next lease, and tells the present one', async (world) => {
    const cluster = world.open()
    const membership = cluster.createMembership()
    const waiting = [membership.whenRegistered(), membership.whenRegistered()]
    const first = await membership.register()
    expect(await Promise.all(waiting)).toEqual([first, first])
    expect(await membership.whenRegistered()).toBe(first)
    await membership.deregister()
    const next = membership.whenRegistered()
    const second = await membership.register()
    expect(await next).toBe(second)
    expect(second.token).toBeGreaterThan(first.token)
  })

  check('contract: an abort ends a wait of whenRegistered, and nothing else', async (world) => {
    const cluster = world.open()
    const membership = cluster.createMembership()
    const controller = new AbortController()
    const impatient = membership.whenRegistered({ signal: controller.signal })
    const patient = membership.whenRegistered()
    controller.abort('enough')
    await expectAborted(impatient, 'enough')
    const lease = await membership.register()
    expect(await bounded(patient, 'the other wait')).toBe(lease)
  })

  check('contract: disposing of a membership deregisters it', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster)
    const lease = await membership.register()
    await membership[Symbol.asyncDispose]()
    expect(cluster.snapshot?.members).toEqual([])
    expect(lease.signal.aborted).toBe(true)
    await membership[Symbol.asyncDispose]()
  })

  check('contract: a deregister called after a register wins over it', async (world) => {
    const cluster = world.open()
    const membership = cluster.createMembership()
    for (let n = 0; n < 5; n++) {
      const registered = membership.register().catch((error: unknown) => error)
      const deregistered = membership.deregister()
      await bounded(Promise.all([registered, deregistered]), 'both settle')
      expect(membership.lease).toBeUndefined()
      expect(cluster.snapshot?.members ?? []).toEqual([])
      expect(await fresh(cluster)).toEqual([])
    }
  })

  check('contract: a register called after a deregister wins over it', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster)
    let before = await membership.register()
    for (let n = 0; n < 5; n++) {
      const deregistered = membership.deregister()
      const registered = membership.register()
      const [, lease] = await bounded(Promise.all([deregistered, registered]), 'both settle')
      expect(before.signal.reason).toBeInstanceOf(DeregisteredError)
      expect(lease.token).toBeGreaterThan(before.token)
      expect(membership.lease).toBe(lease)
      expect(await fresh(cluster)).toMatchObject([{ id: membership.id, token: lease.token }])
      before = lease
    }
  })

  check(
    'contract: of any calls made at once, the last register or deregister and the last data win',
    async (world) => {
      const cluster = world.open()
      const observer = world.open()
      const membership = cluster.createMembership()
      let count = 0
      await fc.assert(
        fc.asyncProperty(
          fc.array(fc.constantFrom('register', 'deregister', 'setData'), { minLength: 1, maxLength: 10 }),
          async (calls) => {
            const wasRegistered = membership.lease !== undefined
            const settled = calls.map((call) => {
              if (call === 'setData') return membership.setData(`data ${String(++count)}`)
              return call === 'register' ? membership.register() : membership.deregister()
            })
            await bounded(Promise.allSettled(settled), 'all calls settle')
            const last = calls.findLast((call) => call !== 'setData')
            const expected = last === undefined ? wasRegistered : last === 'register'
            expect(membership.lease !== undefined).toBe(expected)
            expect(membership.data).toBe(count === 0 ? '' : `data ${String(count)}`)
            const listed = expected
              ? [{ id: membership.id, data: membership.data, token: membership.lease?.token }]
              : []
            expect(await fresh(cluster)).toMatchObject(listed)
            expect(await fresh(observer)).toMatchObject(listed)
          },
        ),
        { numRuns: 25 },
      )
    },
  )

  check('contract: register keeps trying while the database is away', async (world) => {
    const cluster = world.open()
    const observer = world.open()
    await world.disconnect(cluster)
    const membership = cluster.createMembership({ data: 'late' })
    const registered = membership.register()
    await eventually(() => cluster.status.lastError !== undefined, 'the status has an error to tell')
    expect(membership.lease).toBeUndefined()
    expect(await fresh(observer)).toEqual([])
    await world.reconnect(cluster)
    const lease = await bounded(registered, 'the registration')
    expect(membership.lease).toBe(lease)
    expect(dataOf(await fresh(observer))).toEqual(['late'])
  })

  check(
    'contract: an aborted register rejects, with why and the last error, and leaves nothing behind',
    async (world) => {
      const cluster = world.open()
      const observer = world.open()
      await world.disconnect(cluster)
      const membership = cluster.createMembership({ data: 'never' })
      const controller = new AbortController()
      const registered = membership.register({ signal: controller.signal })
      await eventually(() => cluster.status.lastError !== undefined, 'the status has an error to tell')
      const reason = new Error('enough')
      controller.abort(reason)
      const error = await expectAborted(registered, reason)
      expect(error.lastError).toBeInstanceOf(Error)
      expect(membership.lease).toBeUndefined()

      await world.reconnect(cluster)
      await join(cluster, { data: 'afterwards' })
      expect(isConnected(cluster)).toBe(true)
      expect(dataOf(await fresh(cluster))).toEqual(['afterwards'])
      expect(dataOf(await fresh(observer))).toEqual(['afterwards'])
      expect((await membership.register()).token).toBeGreaterThan(0)
      expect(dataOf(await fresh(observer))).toEqual(['afterwards', 'never'])
    },
  )

  check('contract: a register aborted in mid-flight leaves nothing registered', async (world) => {
    const cluster = world.open()
    await cluster.getMembers()
    for (let turns = 0; turns < 20; turns++) {
      const membership = cluster.createMembership()
      const controller = new AbortController()
      const registered = membership.register({ signal: controller.signal })
      for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve))
      controller.abort('enough')
      const lease = await bounded(
        registered.catch((error: unknown) => {
          expect(error).toBeInstanceOf(AbortedError)
        }),
        'the registration settles',
      )
      if (lease === undefined) expect(membership.lease).toBeUndefined()
      else await membership.deregister()
    }
    // Whatever the aborted attempts had left to do is done before this, or right after it.
    await join(cluster, { data: 'last' })
    await shows(cluster, ['last'])
    expect(dataOf(await fresh(world.open()))).toEqual(['last'])
  })

  check(
    'contract: a register aborted while a deregister is under way leaves nothing registered',
    async (world) => {
      const cluster = world.open()
      const membership = await join(cluster)
      await world.disconnect(cluster)
      const left = membership.deregister()
      const controller = new AbortController()
      const registered = membership.register({ signal: controller.signal })
      controller.abort('enough')
      await expectAborted(registered, 'enough')
      await world.reconnect(cluster)
      await bounded(left, 'the deregistration')
      // Whatever the aborted attempt had left to do is done before this, or right after it.
      await join(cluster, { data: 'last' })
      await shows(cluster, ['last'])
      expect(dataOf(await fresh(world.open()))).toEqual(['last'])
    },
  )

  check('contract: the abort of one register does not end the wait of another', async (world) => {
    const cluster = world.open()
    await world.disconnect(cluster)
    const membership = cluster.createMembership()
    const controller = new AbortController()
    const impatient = membership.register({ signal: controller.signal })
    const patient = membership.register()
    controller.abort('enough')
    await expectAborted(impatient, 'enough')
    await world.reconnect(cluster)
    const lease = await bounded(patient, 'the other registration')
    expect(membership.lease).toBe(lease)
    expect(idsOf(await fresh(cluster))).toEqual([membership.id])
  })

  check('contract: an abort ends the wait of deregister, not the deregistration', async (world) => {
    const cluster = world.open()
    const observer = world.open()
    const membership = await join(cluster, { data: 'leaving' })
    const lease = await membership.register()
    await world.disconnect(cluster)
    const controller = new AbortController()
    const deregistered = membership.deregister({ signal: controller.signal })
    controller.abort('enough')
    await expectAborted(deregistered, 'enough')
    expect(lease.signal.aborted).toBe(true)
    expect(membership.lease).toBeUndefined()
    await observer.getMembers()
    await world.reconnect(cluster)
    await shows(observer, [])
    await shows(cluster, [])
  })

  check('contract: deregister, called while the database is away, ends the lease at once', async (world) => {
    const cluster = world.open()
    const observer = world.open()
    const membership = await join(cluster)
    const lease = await membership.register()
    await world.disconnect(cluster)
    const deregistered = membership.deregister()
    await eventually(() => lease.signal.aborted, 'the lease ends')
    expect(membership.lease).toBeUndefined()
    expect(idsOf(await fresh(observer))).toEqual([membership.id])
    await world.reconnect(cluster)
    await bounded(deregistered, 'the deregistration')
    expect(cluster.snapshot?.members).toEqual([])
    expect(await fresh(observer)).toEqual([])
  })
}
