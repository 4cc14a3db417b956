/** Who is current while others hold its row, how long an idle fence lasts, and who is told of one that lasts. */
import { randomUUID } from 'node:crypto'
import { migrate } from 'pg-membership'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { diagnose } from '../src/cli/doctor/diagnose.js'
import { queryOf } from '../src/postgres/query.js'
import { type AdminClient, adminClient, uniqueName } from './support/database.js'
import { silence } from './support/event-log.js'
import { openServer } from './support/opened.js'
import { startRoles } from './support/roles.js'

const { schema, as } = await startRoles()
let admin: AdminClient
beforeAll(async () => {
  admin = await adminClient()
  await admin.query(`set search_path = ${schema}`)
})
afterAll(() => admin.end())

async function opened(role: 'member' | 'reader'): Promise<AdminClient> {
  const client = await as(role)
  onTestFinished(() => client.end())
  return client
}

interface Actor {
  readonly cluster: string
  readonly id: string
  readonly token: number
  readonly batch: string
}

/** A registration with a key and a nonce. No process renews it. */
async function actor(client: AdminClient, ttl = '15 s'): Promise<Actor> {
  const [cluster, id, batch] = [uniqueName(), randomUUID(), randomUUID()]
  const { rows } = await client.query<{ token: string }>(
    `select token from register($1, array[$2::uuid], '{x}', '{0}', $3, null, 's', 0)`,
    [cluster, id, ttl],
  )
  const token = Number(rows[0]?.token)
  await client.query(`select claim($1, '', $2, $3, '{key}')`, [cluster, id, token])
  await client.query(`select stock_nonces($1, 'pool', '{a,b}')`, [cluster])
  await client.query(`select take_nonces($1, 'pool', $2, $3, $4, '{}', 1)`, [cluster, id, token, batch])
  return { cluster, id, token, batch }
}

type Call = (client: AdminClient, actor: Actor) => Promise<unknown>

const FENCES: Readonly<Record<string, Call>> = {
  fence: (client, { id, token }) => client.query('select fence($1::uuid, $2::bigint)', [id, token]),
  'fence of texts': (client, { id, token }) => client.query('select fence($1, $2)', [id, String(token)]),
  fence_claims: (client, { cluster, id, token }) =>
    client.query(`select fence_claims($1, '', $2, $3, '{key}')`, [cluster, id, token]),
  use_nonce: (client, { cluster, id, token, batch }) =>
    client.query(`select use_nonce($1, 'pool', $2, $3, $4, 'a')`, [cluster, id, token, batch]),
}
const OTHERS: Readonly<Record<string, Call>> = {
  claim: (client, { cluster, id, token }) =>
    client.query(`select claim($1, '', $2, $3, '{another}')`, [cluster, id, token]),
  take_nonces: (client, { cluster, id, token }) =>
    client.query(`select take_nonces($1, 'pool', $2, $3, gen_random_uuid(), '{}', 1)`, [cluster, id, token]),
}

describe('promise 16: while somebody holds its row for longer than its ttl, a member that is alive', () => {
  test.each(Object.entries({ ...FENCES, ...OTHERS }))('may call %s', async (_name, call) => {
    const [member, locking] = [await opened('member'), await adminClient()]
    onTestFinished(() => locking.end())
    const own = await actor(member)
    await silence(admin, schema, own.cluster, [own.id])
    await locking.query('begin')
    await locking.query(`select from ${schema}.members where id = $1 for share`, [own.id])
    await expect(call(member, own), 'nobody has heard of it').rejects.toMatchObject({
      code: expect.stringMatching(/^MB00[12]$/) as string,
    })
    const { rows } = await member.query(`select locked from heartbeat($1, $2, $3, 's', 0)`, [
      own.cluster,
      [own.id],
      [own.token],
    ])
    expect(rows).toEqual([{ locked: [own.id] }])
    await member.query('begin')
    await call(member, own)
    await member.query('commit')
    // Too long ago as well.
    await admin.query(`update held_heartbeats set at = at - interval '1 min' where member = $1`, [own.id])
    await expect(call(member, own)).rejects.toMatchObject({
      code: expect.stringMatching(/^MB00[12]$/) as string,
    })
    await locking.query('rollback')
  })
})

async function idleBound(client: AdminClient): Promise<string | undefined> {
  const { rows } = await client.query<{ t: string }>(
    `select current_setting('idle_in_transaction_session_timeout') as t`,
  )
  return rows[0]?.t
}

describe('promise 16: a fenced transaction that idles ends, and its session with it:', () => {
  test.each(Object.entries(FENCES))(
    '%s sets the bound for the transaction, and no longer',
    async (_name, call) => {
      const member = await opened('member')
      for (const [ttl, before, during] of [
        ['15 s', '0', '15s'],
        ['1 s', '0', '15s'],
        ['1 s', '16s', '15s'],
        ['1500 ms', '15s', '15s'],
        ['1 min', '0', '1min'],
        ['1 min', '1h', '1min'],
        ['1 min', '59s', '59s'],
        ['61500 ms', '1d', '61500ms'],
        ['1 day', '0', '1d'],
        ['15 s', '250ms', '250ms'],
      ] as const) {
        const own = await actor(member, ttl)
        await member.query(`set idle_in_transaction_session_timeout = '${before}'`)
        for (const end of ['commit', 'rollback', 'rollback to savepoint inner_one'] as const) {
          if (call === FENCES.use_nonce && end === 'commit') continue
          await member.query('begin; savepoint inner_one')
          await call(member, own)
          expect(await idleBound(member), `ttl ${ttl}, before ${before}`).toBe(during)
          await member.query(end)
          expect(await idleBound(member), end).toBe(before)
          await member.query('commit')
        }
        await call(member, own)
        expect(await idleBound(member), 'in autocommit').toBe(before)
      }
    },
  )

  test('what was refused, and calls that fence nothing, leave the setting alone', async () => {
    const member = await opened('member')
    const own = await actor(member)
    for (const [name, call] of Object.entries(FENCES)) {
      await member.query('begin; savepoint inner_one')
      await expect(call(member, { ...own, token: 0 }), name).rejects.toThrow()
      await member.query('rollback to savepoint inner_one')
      expect(await idleBound(member)).toBe('0')
      await member.query('commit')
    }
    await member.query('begin')
    for (const call of Object.values(OTHERS)) await call(member, own)
    expect(await idleBound(member)).toBe('0')
    await member.query('commit')
  })

  test('the server ends it, and others may remove its member', async () => {
    const member = await opened('member')
    const own = await actor(member)
    await member.query(`set idle_in_transaction_session_timeout = '100ms'`)
    await member.query('begin')
    const ended = new Promise<void>((resolve) => member.on('end', () => resolve()))
    await member.query('select fence($1::uuid, $2::bigint)', [own.id, own.token])
    await ended
    await admin.query('delete from members where id = $1', [own.id])
  })
})

/** A member that is past its ttl, in a cluster that is swept. */
async function overdue(client: AdminClient): Promise<Actor> {
  const own = await actor(client)
  await silence(admin, schema, own.cluster, [own.id])
  return own
}

async function obstacles(cluster: string): Promise<readonly string[]> {
  const { rows } = await admin.query<{ obstacles: string[] | null }>('select obstacles from sweep($1)', [
    cluster,
  ])
  return rows[0]?.obstacles ?? []
}

async function found(): Promise<string[]> {
  const reader = await as('reader')
  await reader.query('begin read only')
  const findings = await diagnose({ query: queryOf(reader, schema), schema, hearing: undefined })
  await reader.end()
  return findings
    .filter(({ code, severity }) => code === 'kept-members' && severity !== 'ok')
    .map(({ what }) => what)
}

describe('promise 6: a member that a fence keeps beyond its ttl', () => {
  test('is told by each sweep and by the doctor, with the session that keeps it, as long as that lasts', async () => {
    const [member, second] = [await opened('member'), await opened('member')]
    await member.query(`set application_name = 'batch job'`)
    const own = await actor(member)
    await member.query('begin')
    await member.query('select fence($1::uuid, $2::bigint)', [own.id, own.token])
    // Many have locked it, one inside a savepoint; heartbeats come meanwhile.
    await second.query('begin; savepoint inner_one')
    await second.query('select fence($1::uuid, $2::bigint)', [own.id, own.token])
    expect(await obstacles(own.cluster)).toEqual([])
    await silence(admin, schema, own.cluster, [own.id])
    const words = (await obstacles(own.cluster)).toSorted()
    expect(words).toHaveLength(2)
    expect(words.join()).toMatch(new RegExp(`^${own.id}: a transaction of pid \\d+ \\(.*batch job\\)`))
    expect((await obstacles(own.cluster)).toSorted(), 'the same words: they are logged once').toEqual(words)
    expect((await found()).join()).toContain('batch job')
    // PostgreSQL does not tell any more whose it is.
    await second.query('release savepoint inner_one')
    expect(await obstacles(own.cluster)).toHaveLength(1)
    await member.query('commit')
    const unknown = `${own.id}: a transaction keeps it beyond its ttl, by a fence or another lock`
    expect(await obstacles(own.cluster)).toEqual([unknown])
    expect((await found()).join()).toContain('by a transaction')
    await second.query('commit')
    expect(await obstacles(own.cluster)).toEqual([])
    expect((await admin.query('select from members where id = $1', [own.id])).rowCount).toBe(0)
    expect(await found()).toEqual([])
  })

  test('is not told while it is alive, or only late by the heartbeat of its row', async () => {
    const [member, locking] = [await opened('member'), await opened('member')]
    const own = await overdue(member)
    const beat = (client: AdminClient): Promise<unknown> =>
      client.query(`select heartbeat($1, $2, $3, 's', 0)`, [own.cluster, [own.id], [own.token]])
    await beat(member)
    await locking.query('begin')
    await locking.query('select fence($1::uuid, $2::bigint)', [own.id, own.token])
    expect(await obstacles(own.cluster)).toEqual([])
    await locking.query('rollback')
    await admin.query('begin')
    await silence(admin, schema, own.cluster, [own.id])
    await beat(member)
    expect(await obstacles(own.cluster), 'a heartbeat was held').toEqual([])
    await admin.query('commit')
  })

  test('by a prepared transaction is told with its gid', async () => {
    const server = await openServer({ max_prepared_transactions: '2' })
    await migrate({ connection: server.url, schema })
    await using owner = await adminClient(server.url)
    await owner.query(`set search_path = ${schema}`)
    const own = await actor(owner)
    await owner.query('begin')
    await owner.query('select fence($1::uuid, $2::bigint)', [own.id, own.token])
    await owner.query(`prepare transaction 'forgotten'`)
    await silence(owner, schema, own.cluster, [own.id])
    const { rows } = await owner.query('select obstacles from sweep($1)', [own.cluster])
    expect(rows).toEqual([
      { obstacles: [expect.stringContaining('the prepared transaction forgotten') as string] },
    ])
    const kept = await owner.query('select pid, gid, begun_at is null as unknown from kept_past_ttl($1)', [
      own.cluster,
    ])
    expect(kept.rows).toEqual([{ pid: null, gid: 'forgotten', unknown: false }])
    await owner.query(`rollback prepared 'forgotten'`)
    expect((await owner.query('select removed from sweep($1)', [own.cluster])).rows).toEqual([{ removed: 1 }])
  })
})
