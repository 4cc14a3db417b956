/** What only a database can do to nonces: transactions, locks, lost answers, deaths. */
import { EmptyError, NoncePool } from 'pg-membership/nonces'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type AdminClient, adminClient, databaseUrl, uniqueName } from '../support/database.js'
import { joined, openCluster, openProxy } from '../support/opened.js'
import { codeOf, startRoles } from '../support/roles.js'
import { until } from '../support/until.js'
import { startTaker } from './taker.js'

const { schema, as, urlOf } = await startRoles()
const NAME = 'chaos'
let admin: AdminClient
beforeAll(async () => {
  admin = await adminClient()
  await admin.query(`set search_path = ${schema}`)
})
afterAll(() => admin.end())

/** Takes part with the grants of a member, and nothing else. */
async function taker(name = uniqueName(), { size = 10, connection = urlOf('member') } = {}) {
  const cluster = openCluster({ schema, name, connection })
  const membership = await joined(cluster)
  return { name, membership, pool: new NoncePool({ cluster, membership, name: NAME, size }) }
}

function values(count: number): string[] {
  return Array.from({ length: count }, (_, n) => `value ${n}`)
}

async function states(cluster: string): Promise<Record<string, number>> {
  const { rows } = await admin.query<{ state: string; n: number }>(
    'select state, count(*)::int as n from nonces_now where cluster = $1 group by 1',
    [cluster],
  )
  return Object.fromEntries(rows.map(({ state, n }) => [state, n]))
}

describe('promise 19: a nonce', () => {
  test('is still taken after a rollback, and used for good after a commit', async () => {
    const { name, pool } = await taker()
    await pool.stock(['a'])
    const nonce = await pool.take()
    await using client = await as('member')
    for (const end of ['rollback', 'rollback', 'commit']) {
      await client.query('begin')
      await nonce.use(client)
      expect(await states(name)).toEqual({ taken: 1 })
      await client.query(end)
    }
    expect(await states(name)).toEqual({ used: 1 })
    await client.query('begin')
    await expect(nonce.use(client)).rejects.toMatchObject({ code: 'MB001' })
    await client.query('rollback')
    await nonce.release()
    expect([await states(name), await pool.stock(['a'])]).toEqual([{ used: 1 }, 0])
    await expect(pool.take()).rejects.toThrow(EmptyError)
  })

  test('is used by one of two transactions that use it at once', async () => {
    const { pool } = await taker()
    await pool.stock(['a'])
    const nonce = await pool.take()
    await using first = await as('member')
    await using second = await as('member')
    await first.query('begin')
    await second.query('begin')
    await nonce.use(first)
    const using = nonce.use(second)
    using.catch(() => undefined)
    await first.query('commit')
    await expect(using).rejects.toMatchObject({ code: 'MB001' })
    await second.query('rollback')
  })

  test('that a transaction is using is released when that has ended, unless it is used', async () => {
    const { name, pool } = await taker()
    await pool.stock(['a', 'b'])
    const [first, second] = [await pool.take(), await pool.take()]
    await pool.close()
    for (const [nonce, end] of [
      [first, 'commit'],
      [second, 'rollback'],
    ] as const) {
      await using client = await as('member')
      await client.query('begin')
      await nonce.use(client)
      let released = false
      const releasing = nonce.release().then(() => (released = true))
      expect(released).toBe(false)
      await client.query(end)
      await releasing
    }
    expect(await states(name)).toEqual({ used: 1, free: 1 })
  })

  test('keeps its registration from being removed, and is refused when that is gone', async () => {
    const { name, membership, pool } = await taker()
    await pool.stock(['a'])
    const nonce = await pool.take()
    await using client = await as('member')
    await client.query('begin')
    await nonce.use(client)
    const { rows } = await admin.query(
      `select pending from deregister($1, array[$2::uuid], array[$3::bigint])`,
      [name, membership.id, membership.lease?.token],
    )
    expect(rows).toEqual([{ pending: [membership.id] }])
    await client.query('rollback')
    await admin.query('delete from members where id = $1', [membership.id])
    await client.query('begin')
    await expect(nonce.use(client)).rejects.toMatchObject({ code: 'MB001' })
    await client.query('rollback')
    await expect(nonce.use(client)).rejects.toMatchObject({ code: 'MB001' })
  })

  test('is refused at any level of isolation, or used once', async () => {
    const { name, pool } = await taker()
    await pool.stock(values(3))
    for (const level of ['read committed', 'repeatable read', 'serializable']) {
      await using client = await as('member')
      await client.query(`begin isolation level ${level}`)
      await client.query('select from nonces')
      const nonce = await pool.take()
      // A snapshot from before it was taken cannot use it.
      const code = await nonce.use(client).then(
        () => undefined,
        (error: unknown) => (error as { code: string }).code,
      )
      expect(code ?? 'used').toMatch(/^(used|40001|MB001)$/)
      await client.query(code === undefined ? 'commit' : 'rollback')
    }
    expect((await states(name)).used).toBeGreaterThan(0)
  })
})

describe('promise 20: what was taken', () => {
  test('is not lost with the answer', async () => {
    const proxy = await openProxy(urlOf('member'))
    const { name, pool } = await taker(uniqueName(), { connection: proxy.throughIt, size: 4 })
    await pool.stock(values(10))
    const cut = proxy.cutOnce({
      direction: 'toClient',
      afterBytes: 0,
      when: ({ sent }) => sent.includes('take_nonces'),
    })
    const nonce = await pool.take()
    await cut
    expect(pool.available).toBe(3)
    expect(await states(name)).toEqual({ taken: 4, free: 6 })
    await pool.close()
    await nonce.release()
    expect(await states(name)).toEqual({ free: 10 })
  })

  test('by a process that crashes is free about a second later', async () => {
    const name = uniqueName()
    const { pool } = await taker(name)
    await pool.stock(values(20))
    const worker = await startTaker()
    await worker.ask('open', { name, schema, connection: databaseUrl(), size: 20 })
    await worker.ask('take', 3)
    await expect(pool.take()).rejects.toThrow(EmptyError)
    await worker.kill()
    const since = performance.now()
    await until(async () => (await states(name)).free === 20, {
      withinMs: 10_000,
      message: 'the values are free',
    })
    // As soon as crashed members are gone: half a second of grace, and a turn to sweep.
    expect(performance.now() - since).toBeLessThan(5_000)
    expect((await pool.take()).value).toContain('value')
  })
})

test('promise 15: the functions refuse what no caller should send', async () => {
  const { name, membership } = await taker()
  const [id, token] = [membership.id, membership.lease?.token ?? 0]
  await using member = await as('member')
  const REFUSED = /^(22023|MB001)$/
  const TAKE = 'select take_nonces($1, $2, $3, $4, $5, $6, $7)'
  for (const one of [
    [name, NAME, id, token, null, [], 1],
    [name, NAME, id, token, id, null, 1],
    [name, NAME, id, token, id, [null], 1],
    [name, NAME, id, token, id, [], 0],
    [name, NAME, id, token, id, [], 10_001],
    [name, NAME, id, token, id, [], null],
    [name, NAME, id, token + 1, id, [], 1],
    ['other', NAME, id, token, id, [], 1],
  ])
    expect([one, await codeOf(member, TAKE, one)]).toEqual([one, expect.stringMatching(REFUSED)])
  for (const one of [
    [null, NAME, ['a']],
    [name, null, ['a']],
    [name, NAME, null],
    [name, NAME, [null]],
    [name, NAME, ['']],
    [name, NAME, ['x'.repeat(256)]],
  ])
    expect([one, await codeOf(member, 'select stock_nonces($1, $2, $3)', one)]).toEqual([one, '22023'])
  const RETURN = 'select return_nonces($1, $2, $3, $4, $5, $6, $7)'
  for (const one of [
    [name, NAME, id, token, ['a'], [], []],
    [name, NAME, id, token, null, null, []],
    [name, NAME, id, token, [], [], null],
  ])
    expect([one, await codeOf(member, RETURN, one)]).toEqual([one, '22023'])
})

test('promise 14: a cluster that is dropped takes its nonces with it', async () => {
  const [{ name, membership, pool }, other] = [await taker(), await taker()]
  await Promise.all([pool.stock(values(3)), other.pool.stock(values(3))])
  await membership.deregister()
  await admin.query('select drop_cluster($1)', [name])
  expect([await states(name), await states(other.name)]).toEqual([{}, { free: 3 }])
})
