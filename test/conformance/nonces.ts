import type { Cluster, Membership } from 'pg-membership'
import { ClosedError, MembershipError, OptionError } from 'pg-membership'
import { EmptyError, type Nonce, NoncePool } from 'pg-membership/nonces'
import { expect } from 'vitest'
import type { Declare } from './suite.js'
import { abortOf, bounded, eventually, expectAborted, join, type World } from './world.js'

const NAME = 'tickets'

function values(count: number, prefix = 'value'): string[] {
  return Array.from({ length: count }, (_, n) => `${prefix} ${n}`)
}

interface Taker {
  readonly cluster: Cluster
  readonly membership: Membership
  readonly pool: NoncePool
}

async function taker(world: World, size?: number): Promise<Taker> {
  const cluster = world.open()
  const membership = await join(cluster)
  const pool = new NoncePool({ cluster, membership, name: NAME, ...(size === undefined ? {} : { size }) })
  return { cluster, membership, pool }
}

function use(world: World, nonce: Nonce): Promise<'committed' | 'refused'> {
  return world.inTransaction((client) => nonce.use(client))
}

/** All that is left, used up. */
async function drain(pool: NoncePool): Promise<string[]> {
  const found: string[] = []
  for (;;) {
    const nonce = await pool.take().catch((error: unknown) => {
      if (error instanceof EmptyError) return undefined
      throw error
    })
    if (nonce === undefined) return found.toSorted()
    found.push(nonce.value)
  }
}

export function nonces(check: Declare): void {
  check('promise 19: known values are not stocked twice, used ones neither', async (world) => {
    const { pool } = await taker(world)
    expect(await pool.stock(values(3))).toBe(3)
    const nonce = await pool.take()
    expect(await use(world, nonce)).toBe('committed')
    expect(await pool.stock([...values(4), ...values(4)])).toBe(1)
    expect(await drain(pool)).toEqual(values(4).filter((value) => value !== nonce.value))
  })

  check('promise 19: no two takers get one value, in one process or in several', async (world) => {
    const [ada, bob] = [await taker(world, 7), await taker(world, 100)]
    const second = new NoncePool({ cluster: ada.cluster, membership: ada.membership, name: NAME, size: 1 })
    await ada.pool.stock(values(200))
    const taken = await Promise.all(
      [ada.pool, bob.pool, second].flatMap((pool) => Array.from({ length: 30 }, () => pool.take())),
    )
    expect(new Set(taken.map(({ value }) => value)).size).toBe(90)
    expect(await Promise.all(taken.slice(0, 5).map((nonce) => use(world, nonce)))).toEqual(
      Array.from({ length: 5 }, () => 'committed'),
    )
  })

  check('promise 19: an empty pool says so, until it is stocked', async (world) => {
    const { pool } = await taker(world)
    const error: unknown = await pool.take().catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(EmptyError)
    expect(error).toBeInstanceOf(MembershipError)
    expect(error).toMatchObject({ code: 'EMPTY', name: 'EmptyError' })
    await pool.stock(['a'])
    const nonce = await pool.take()
    expect([nonce.value, pool.available]).toEqual(['a', 0])
    await expect(pool.take()).rejects.toThrow(EmptyError)
    await nonce.release()
    expect((await pool.take()).value).toBe('a')
  })

  check('promise 19: a used value is used for good, and a released one is somebody else’s', async (world) => {
    const [ada, bob, eve] = [await taker(world, 1), await taker(world, 1), await taker(world, 1)]
    await ada.pool.stock(['a'])
    const nonce = await ada.pool.take()
    // It would take the value again.
    await ada.pool.close()
    await nonce.release()
    await nonce.release()
    const again = await bob.pool.take()
    expect([await use(world, nonce), await use(world, again), await use(world, again)]).toEqual([
      'refused',
      'committed',
      'refused',
    ])
    await again.release()
    await expect(eve.pool.take()).rejects.toThrow(EmptyError)
  })

  check('promise 20: what a registration took is free when it has ended', async (world) => {
    const heir = await taker(world, 20)
    for (const removal of world.removals) {
      const { membership, pool } = await taker(world, 10)
      const names = values(10, removal)
      await pool.stock(names)
      const nonce = await pool.take()
      expect(pool.available).toBe(9)
      const { lease } = membership
      await world.remove(membership.id, removal)
      expect(await use(world, nonce)).toBe('refused')
      expect(await drain(heir.pool)).toEqual(names.toSorted())
      if (lease !== undefined) await abortOf(lease.signal)
      await bounded(membership.whenRegistered(), 'it comes back')
      expect(pool.available).toBe(0)
      await expect(pool.take()).rejects.toThrow(EmptyError)
      await nonce.release()
      await expect(pool.take()).rejects.toThrow(EmptyError)
    }
  })

  check(
    'promise 20: a pool that closes gives back what is at hand, and not what is handed out',
    async (world) => {
      const [ada, bob] = [await taker(world, 10), await taker(world, 10)]
      await ada.pool.stock(values(5))
      const nonce = await ada.pool.take()
      expect([ada.pool.available, bob.pool.available]).toEqual([4, 0])
      await Promise.all([ada.pool.close(), ada.pool.close()])
      expect(ada.pool.available).toBe(0)
      await expect(ada.pool.take()).rejects.toThrow(ClosedError)
      expect(await drain(bob.pool)).toEqual(values(5).filter((value) => value !== nonce.value))
      expect(await use(world, nonce)).toBe('committed')
    },
  )

  check('promise 19: a taker waits for a lease and for the database, until it gives up', async (world) => {
    const cluster = world.open()
    const membership = cluster.createMembership()
    const pool = new NoncePool({ cluster, membership, name: NAME, size: 1 })
    expect(await pool.stock(values(2))).toBe(2)
    const waiting = pool.take()
    await membership.register()
    await bounded(waiting, 'the lease is enough')
    await world.disconnect(cluster)
    const given = new AbortController()
    const signal = given.signal
    const [first, last] = [pool.take().catch(() => undefined), pool.stock(['x'], { signal })]
    await eventually(() => pool.available === 0, 'nothing is at hand')
    given.abort('enough')
    await expectAborted(last, 'enough')
    await expectAborted(pool.take({ signal }), 'enough')
    await world.reconnect(cluster)
    expect((await bounded(first, 'it goes on after the cut'))?.value).toBeDefined()
    await cluster.close()
    await expect(pool.take()).rejects.toThrow(ClosedError)
    await expect(pool.stock(['y'])).rejects.toThrow(ClosedError)
    await bounded(pool.close(), 'closing after the cluster')
  })

  check('promise 14: pools and clusters do not meet', async (world) => {
    const { cluster, membership, pool } = await taker(world)
    const other = new NoncePool({ cluster, membership, name: 'others' })
    const elsewhere = world.open({ name: `${world.name}-elsewhere` })
    const far = new NoncePool({ cluster: elsewhere, membership: await join(elsewhere), name: NAME })
    expect([await pool.stock(['a']), await other.stock(['a']), await far.stock(['a'])]).toEqual([1, 1, 1])
    for (const one of [pool, other, far]) expect(await drain(one)).toEqual(['a'])
  })

  check('promise 12: what is no value, no size, no client or no option is refused', async (world) => {
    const { cluster, membership, pool } = await taker(world)
    for (const value of ['', 'a\0b', '\ud800', 'ä'.repeat(128), 1, null, undefined, {}])
      await expect(pool.stock([value as string])).rejects.toThrow(OptionError)
    for (const odd of ['abc', null, 1, {}])
      await expect(pool.stock(odd as unknown as string[])).rejects.toThrow(OptionError)
    for (const size of [0, -1, 1.5, NaN, 10_001, '1', null])
      expect(() => new NoncePool({ cluster, membership, name: NAME, size: size as number })).toThrow(
        OptionError,
      )
    for (const name of ['', '\0', 1, null, 'x'.repeat(256)])
      expect(() => new NoncePool({ cluster, membership, name: name as string })).toThrow(OptionError)
    expect(() => new NoncePool({ cluster, membership, name: NAME, sise: 1 } as never)).toThrow(OptionError)
    expect(() => new NoncePool({ cluster: {} as Cluster, membership, name: NAME })).toThrow(TypeError)
    const odd = ['"', '\\', '{}', 'NULL', `'; drop table nonces; --`, '🐘', 'ä'.repeat(127), ' ']
    expect(await pool.stock(odd)).toBe(odd.length)
    const nonce = await pool.take()
    await expect(nonce.use({ query: 1 } as never)).rejects.toThrow(TypeError)
    expect([nonce.value, ...(await drain(pool))].toSorted()).toEqual(odd.toSorted())
  })
}
