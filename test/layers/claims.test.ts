/** What only a database can do to claims: transactions, locks, roles, lost answers, deaths. */
import { Claims } from 'pg-membership/claims'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type AdminClient, adminClient, databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { typeMembers } from '../support/event-log.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import { codeOf, startRoles } from '../support/roles.js'
import { until } from '../support/until.js'
import { startTaker } from './taker.js'

const { schema, as, urlOf } = await startRoles()
let admin: AdminClient
beforeAll(async () => {
  admin = await adminClient()
  await admin.query(`set search_path = ${schema}`)
})
afterAll(() => admin.end())

/** Takes part with the grants of a member, and nothing else. */
async function claimant(name = uniqueName(), connection = urlOf('member'), timing = {}) {
  const cluster = openCluster({ schema, name, connection, ...timing })
  const membership = await joined(cluster)
  const claims = new Claims({ cluster, membership })
  const token = membership.lease?.token ?? 0
  return { name, cluster, membership, claims, values: [name, '', membership.id, token] as const }
}

const CLAIM = 'select claim($1, $2, $3, $4, $5) as own'
const RELEASE = 'select release($1, $2, $3, $4, $5) as own'
const FENCE = 'select fence_claims($1, $2, $3, $4, $5)'

describe('promise 17: claiming', () => {
  test('waits for nobody: what another transaction is claiming is left out, all else is claimed', async () => {
    const [ada, bob] = [await claimant('busy'), await claimant('busy')]
    await using other = await as('member')
    const many = Array.from({ length: 1_000 }, (_, n) => `key ${n}`)
    for (const end of ['rollback', 'commit']) {
      await other.query('begin')
      await other.query(CLAIM, [...bob.values, ['key 7', 'key 700']])
      const left = many.filter((key) => key !== 'key 7' && key !== 'key 700')
      expect([...(await ada.claims.claim(many))].toSorted()).toEqual(left.toSorted())
      await other.query(end)
      expect((await ada.claims.claim(many)).size).toBe(end === 'rollback' ? 1_000 : 998)
      await ada.claims.release(many)
    }
  })

  test('does not wait for a transaction that claims all of it, nor for one that releases', async () => {
    const [ada, bob] = [await claimant('all busy'), await claimant('all busy')]
    await using other = await as('member')
    const many = Array.from({ length: 300 }, (_, n) => `key ${n}`)
    await other.query('begin')
    await other.query(CLAIM, [...bob.values, many])
    const since = performance.now()
    expect((await ada.claims.claim(many)).size).toBe(0)
    expect(performance.now() - since).toBeLessThan(2_000)
    await other.query('commit')
    await other.query('begin')
    await other.query(RELEASE, [...bob.values, many])
    expect((await ada.claims.claim([...many, 'free'])).size).toBe(1)
    await other.query('commit')
    expect((await ada.claims.claim(many)).size).toBe(300)
  })

  test('at any level of isolation gives each key to one', async () => {
    const [ada, bob] = [await claimant('levels'), await claimant('levels')]
    for (const level of ['read committed', 'repeatable read', 'serializable']) {
      await using client = await as('member')
      await client.query(`begin isolation level ${level}`)
      await client.query('select from claims')
      await ada.claims.claim([`${level} 1`])
      const code = await codeOf(client, CLAIM, [...bob.values, [`${level} 1`, `${level} 2`]])
      expect([undefined, '40001']).toContain(code)
      await client.query('commit')
      expect(await bob.claims.owner(`${level} 1`)).toMatchObject({ id: ada.membership.id })
    }
  })

  test('whose answer was lost is asked again, and finds what it did', async () => {
    const proxy = await openProxy(urlOf('member'))
    const { claims, name } = await claimant(uniqueName(), proxy.throughIt)
    const cut = proxy.cutOnce({
      direction: 'toClient',
      afterBytes: 0,
      when: ({ sent }) => sent.includes('"claim"'),
    })
    expect(await claims.claim(['a', 'b'])).toEqual(new Set(['a', 'b']))
    await cut
    expect(claims.held).toEqual(new Set(['a', 'b']))
    const { rows } = await admin.query('select key from claims_now where cluster = $1', [name])
    expect(rows).toHaveLength(2)
  })

  test('refuses what no caller should send', async () => {
    const { values } = await claimant()
    const [name, space, id, token] = values
    await using member = await as('member')
    const odd: unknown[][] = [
      [null, space, id, token, ['a']],
      [name, null, id, token, ['a']],
      [name, 'x'.repeat(256), id, token, ['a']],
      [name, space, id, token, null],
      [name, space, id, token, ['a', null]],
      [name, space, id, token, ['']],
      [name, space, id, token, ['ä'.repeat(128)]],
      [name, space, null, token, ['a']],
      [name, space, id, null, ['a']],
      [name, space, id, token + 1, ['a']],
      [`${name} `, space, id, token, ['a']],
    ]
    for (const one of odd)
      expect([one, await codeOf(member, CLAIM, one)]).toEqual([one, expect.stringMatching(/^(22023|MB001)$/)])
    // An array of arrays.
    expect(await codeOf(member, CLAIM, [name, space, id, token, [['a'], ['b']]])).toBe('0A000')
    expect(await codeOf(member, CLAIM, [name, space, id, token, []])).toBeUndefined()
  })
})

describe('promise 18: a fence', () => {
  test('holds back a release, a sweep and an eviction, until its transaction ends', async () => {
    const { name, membership, claims, values } = await claimant()
    await claims.claim(['a', 'b'])
    await using client = await as('member')
    await client.query('begin')
    await claims.fence(client, ['a'])
    // The other key is not held back.
    await using direct = await as('member')
    expect((await direct.query<{ own: string[] }>(RELEASE, [...values, ['a', 'b']])).rows[0]?.own).toEqual([
      'a',
    ])
    let released = false
    const releasing = claims.release(['a']).then(() => (released = true))
    await admin.query(
      `update sweeps set resumed_at = '-infinity', swept_at = clock_timestamp() where cluster = $1`,
      [name],
    )
    await admin.query(`select sweep($1)`, [name])
    const evicting = admin.query(`select evict($1, $2, 'test', interval '1 ms')`, [name, membership.id])
    expect(await codeOf(direct, FENCE, [...values, ['a']])).toBeUndefined()
    expect(await claims.owner('a')).toMatchObject({ id: membership.id })
    expect(released).toBe(false)
    const { command } = await client.query('commit')
    expect(command).toBe('COMMIT')
    await Promise.all([releasing, evicting])
    expect(await claims.owner('a')).toBeUndefined()
  })

  test('does not pass at any level of isolation when the key was another’s meanwhile', async () => {
    const [ada, bob] = [await claimant('fence levels'), await claimant('fence levels')]
    for (const level of ['read committed', 'repeatable read', 'serializable']) {
      await ada.claims.claim(['a'])
      await using client = await as('member')
      await client.query(`begin isolation level ${level}`)
      await client.query('select from claims')
      await ada.claims.release(['a'])
      await bob.claims.claim(['a'])
      expect(await codeOf(client, FENCE, [...ada.values, ['a']])).toMatch(/^(MB002|40001)$/)
      await client.query('rollback')
      await bob.claims.release(['a'])
    }
  })

  test('does not pass for a registration past its ttl, though nobody has swept it', async () => {
    // Without heartbeats: one of them could come in between.
    const timing = { ttlMs: 600_000, heartbeatMs: 300_000 }
    const { membership, claims, values } = await claimant(uniqueName(), urlOf('member'), timing)
    await claims.claim(['a'])
    await using client = await as('member')
    await admin.query(
      `update members set heartbeat_at = clock_timestamp() - interval '1 hour' where id = $1`,
      [membership.id],
    )
    await client.query('begin')
    expect(await codeOf(client, FENCE, [...values, ['a']])).toMatch(/^MB002$/)
    await client.query('rollback')
  })

  test('is refused outside a transaction, and with a pool', async () => {
    const { claims } = await claimant()
    await claims.claim(['a'])
    await using client = await as('member')
    await expect(claims.fence(client, ['a'])).rejects.toThrow(TypeError)
    await expect(
      claims.fence({ query: () => Promise.resolve(), totalCount: 1 } as never, ['a']),
    ).rejects.toThrow(TypeError)
  })
})

test('promise 17: the keys of a process that crashes are free about a second later', async () => {
  const name = uniqueName()
  const { claims } = await claimant(name)
  const worker = await startTaker()
  await worker.ask('open', { name, schema, connection: databaseUrl(), size: 1 })
  expect(await worker.ask('claim', ['a', 'b'])).toEqual(['a', 'b'])
  expect(await claims.claim(['a'])).toEqual(new Set())
  await worker.kill()
  const since = performance.now()
  await until(async () => (await claims.claim(['a', 'b'])).size === 2, {
    withinMs: 10_000,
    message: 'the keys are free',
  })
  // As soon as crashed members are gone: half a second of grace, and a turn to sweep.
  expect(performance.now() - since).toBeLessThan(5_000)
})

test('promise 11: what it costs to remove many does not grow with the claims of others, also where there were none when it was planned', async () => {
  const client = await openAdmin()
  await client.query(`set search_path = ${schema}`)
  const name = uniqueName()
  await client.query('analyze claims, nonces')
  await client.query(
    `insert into members (id, cluster) select gen_random_uuid(), $1 from generate_series(1, 500)`,
    [name],
  )
  const removed = async (): Promise<number> => {
    await client.query('begin')
    await client.query(
      `select deregister($1, array_agg(id), array_agg(token)) from (select id, token from members where cluster = $1 limit 200) m`,
      [name],
    )
    const { rows } = await client.query<{ reads: string }>(
      `select sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) as reads from pg_stat_xact_user_tables
       where relid in ('claims'::regclass, 'nonces'::regclass)`,
    )
    await client.query('commit')
    return Number(rows[0]?.reads)
  }
  expect(await removed()).toBe(0)
  await client.query(
    `insert into claims (cluster, space, key, member, token) select cluster, '', id::text, id, token from members where cluster = $1`,
    [name],
  )
  expect(await removed()).toBeLessThan(10 * 200)
})

test('promise 11: what a claim, a fence, a release or a nonce costs does not grow with the keys and values of others, before any statistics are made', async () => {
  const fresh = await freshSchema()
  const client = await openAdmin()
  await client.query(`set search_path = ${fresh}`)
  for (const table of ['claims', 'nonces']) {
    await client.query(`alter table ${table} set (autovacuum_enabled = off)`)
  }
  const ids = await typeMembers(client, fresh, 'crowd', ['others', 'own'])
  const own = ['crowd', '', ids[1], 2]
  await client.query(
    `insert into claims (cluster, space, key, member, token)
     select 'crowd', '', 'key ' || n, $1, 1 from generate_series(1, 20000) n`,
    [ids[0]],
  )
  await client.query(
    `insert into nonces (cluster, name, value, used_at)
     select 'crowd', 'pool', 'value ' || n, now() from generate_series(1, 20000) n`,
  )
  await client.query(`select stock_nonces('crowd', 'pool', '{a,b,c,d}')`)
  const batch = '00000000-0000-4000-8000-000000000000'
  const cost = async (statement: string, values: unknown[] = own): Promise<number> => {
    await client.query('begin')
    await client.query(statement, values)
    const { rows } = await client.query<{ reads: string }>(
      `select sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) as reads from pg_stat_xact_user_tables
       where relid in ('claims'::regclass, 'nonces'::regclass)`,
    )
    await client.query('commit')
    return Number(rows[0]?.reads)
  }
  const pool = ['crowd', 'pool', ids[1], 2, batch]
  const costs: Record<string, number> = {
    claim: await cost(`select claim($1, $2, $3, $4, '{a,b,c,key 7}')`),
    fence_claims: await cost(`select fence_claims($1, $2, $3, $4, '{a,b,c}')`),
    release: await cost(`select release($1, $2, $3, $4, '{a,b,c,key 7}')`),
    take_nonces: await cost(`select take_nonces($1, $2, $3, $4, $5, '{}', 3)`, pool),
    'take_nonces of a lost batch': await cost(
      `select take_nonces($1, $2, $3, $4, $5, array[$5::uuid], 3)`,
      pool,
    ),
    use_nonce: await cost(`select use_nonce($1, $2, $3, $4, $5, 'a')`, pool),
    return_nonces: await cost(`select return_nonces($1, $2, $3, $4, '{b}', array[$5::uuid], '{}')`, pool),
  }
  for (const [name, reads] of Object.entries(costs)) expect(reads, name).toBeLessThan(50)
})
