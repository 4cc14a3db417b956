import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import { PostgresCluster } from 'pg-membership'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type AdminClient, adminClient, databaseUrl, freshSchema, uniqueName } from './support/database.js'

let schema: string
let admin: AdminClient
let cluster: string

beforeAll(async () => {
  schema = await freshSchema()
  admin = await adminClient()
  await admin.query(`set search_path = ${schema}`)
})
afterAll(() => admin.end())
beforeEach(() => {
  cluster = uniqueName()
})

type Row = Record<string, unknown>

async function rows(text: string, values: readonly unknown[] = []): Promise<Row[]> {
  return (await admin.query<Row>(text, [...values])).rows
}

async function one(text: string, values: readonly unknown[] = []): Promise<Row> {
  return (await rows(text, values))[0] ?? {}
}

async function join(id: string, data = '', { name = cluster, floor = 0 } = {}): Promise<number> {
  const register = `select token from register($1, array[$2::uuid], array[$3::bytea], array[$4::bigint], '15s', null, 's', 0)`
  return Number((await one(register, [name, id, Buffer.from(data), floor])).token)
}

/** Silence past the ttl, while sweeping went on. */
async function expire(id: string, name = cluster): Promise<void> {
  await admin.query(`update members set heartbeat_at = heartbeat_at - interval '1 h' where id = $1`, [id])
  await admin.query(
    `update sweeps set resumed_at = resumed_at - interval '1 h', swept_at = clock_timestamp() where cluster = $1`,
    [name],
  )
  await admin.query('select sweep($1)', [name])
}

async function leave(id: string, token: number, name = cluster): Promise<void> {
  await admin.query('select deregister($1, array[$2::uuid], array[$3::bigint])', [name, id, token])
}

/** As text: a Date has no microseconds. */
async function now(): Promise<string> {
  return (await one(`select clock_timestamp()::text as now`)).now as string
}

test('contract: members_now shows data as text and the age of the heartbeat', async () => {
  const id = randomUUID()
  const token = await join(id, 'http://10.0.0.7:8080')
  await admin.query(`update members set heartbeat_at = clock_timestamp() - interval '10 s' where id = $1`, [
    id,
  ])
  const [row] = await rows(
    `select *, token::int, silent_for between interval '10 s' and interval '20 s' as silent, ttl::text from members_now where cluster = $1`,
    [cluster],
  )
  expect(row).toMatchObject({
    cluster,
    id,
    token,
    data: 'http://10.0.0.7:8080',
    silent: true,
    ttl: '00:00:15',
  })
})

test('contract: any data reads as text, with a symbol for U+0000', async () => {
  const readable = async (data: Buffer) => (await one('select readable($1) as text', [data])).text
  await fc.assert(
    fc.asyncProperty(fc.string({ unit: 'binary', maxLength: 50 }), async (text) => {
      expect(await readable(Buffer.from(text))).toBe(text.replaceAll('\0', '␀'))
    }),
    { examples: [['\\000'], ['\u0000\\000'], ['\u0000\\\u0000000\\\\'], ['💥\0ü'], [''], ['\\x00']] },
  )
  expect(await readable(Buffer.from([0x61, 0xff, 0x00, 0x5c]))).toBe('a\\377\\342\\220\\200\\\\')
  const [row] = await rows('select pg_size_pretty(octet_length(readable($1))::bigint) as size', [
    Buffer.alloc(1 << 20),
  ])
  expect(row).toEqual({ size: '3072 kB' })
})

test('contract: readable data survives plans that the server runs in parallel', async () => {
  const id = randomUUID()
  const token = await join(id, 'x\0y')
  await leave(id, token)
  await admin.query('begin')
  const force =
    Number((await one('show server_version_num')).server_version_num) < 160_000
      ? 'force_parallel_mode'
      : 'debug_parallel_query'
  await admin.query(`set local ${force} = on`)
  try {
    expect(await rows('select data from changes where cluster = $1 and data is not null', [cluster])).toEqual(
      [{ data: 'x␀y' }],
    )
    expect(await rows('select data from stays where cluster = $1', [cluster])).toEqual([{ data: 'x␀y' }])
  } finally {
    await admin.query('rollback')
  }
})

test('contract: stays tell when and why each stay ended, through every way to leave', async () => {
  const id = randomUUID()
  await leave(id, await join(id, 'first'))
  await join(id, 'second')
  await expire(id)
  await join(id, 'third')
  await admin.query('delete from members where id = $1', [id])
  const old = await join(id, 'fourth')
  await join(id, 'fifth', { floor: old })
  await admin.query(`update members set data = 'changed' where id = $1`, [id])
  const stays = await rows('select * from stays where member = $1 order by token', [id])
  expect(stays.map(({ reason, data }) => [data, reason])).toEqual([
    ['first', 'deregistered'],
    ['second', 'expired'],
    ['third', 'removed'],
    ['fourth', 'superseded'],
    ['changed', null],
  ])
  const [gaps] = await rows(
    `select bool_and(left_at >= joined_at and stayed = left_at - joined_at) as whole,
      bool_and(next is null or next >= left_at) as apart, count(*)::int as n
    from (select *, lead(joined_at) over (order by token) as next from stays where member = $1 and left_at is not null) s`,
    [id],
  )
  expect(gaps).toEqual({ whole: true, apart: true, n: 4 })
  expect(
    await rows(
      `select member, token, joined_at, left_at, reason, data from stays_between($1) order by token`,
      [cluster],
    ),
  ).toEqual(
    stays.map(({ member, token, joined_at, left_at, reason, data }) => ({
      member,
      token,
      joined_at,
      left_at,
      reason,
      data,
    })),
  )
  expect(
    await rows('select kind, reason from changes where cluster = $1 order by revision desc limit 4', [
      cluster,
    ]),
  ).toEqual([
    { kind: 'updated', reason: 'data' },
    { kind: 'joined', reason: 'registered' },
    { kind: 'left', reason: 'superseded' },
    { kind: 'joined', reason: 'registered' },
  ])
})

test('contract: members_at knows at every moment of a random history who was there with what, also after trimming', async () => {
  const ids = [randomUUID(), randomUUID(), randomUUID()]
  const step = fc.record({
    action: fc.constantFrom('join', 'join', 'change', 'leave', 'expire', 'delete', 'supersede'),
    id: fc.constantFrom(...ids),
    name: fc.constantFrom(' one', ' two'),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 25 }), fc.nat(), async (steps, cut) => {
      const run = uniqueName()
      await admin.query('delete from members where id = any ($1)', [ids])
      const present = new Map<string, { name: string; token: number; data: string }>()
      const moments: { at: string; members: Map<string, [string, number, string][]> }[] = []
      for (const [n, { action, id, name }] of steps.entries()) {
        const found = present.get(id)
        const data = `data ${String(n)}`
        if (action === 'join' && !found)
          present.set(id, { name, data, token: await join(id, data, { name: run + name }) })
        if (found && action === 'supersede') {
          found.token = await join(id, data, { name: run + found.name, floor: found.token })
          found.data = data
        }
        if (found && action === 'change') {
          found.data = data
          await admin.query('update members set data = $1 where id = $2', [Buffer.from(data), id])
        }
        if (found && action === 'leave') await leave(id, found.token, run + found.name)
        if (found && action === 'expire') await expire(id, run + found.name)
        if (found && action === 'delete') await admin.query('delete from members where id = $1', [id])
        if (['leave', 'expire', 'delete'].includes(action)) present.delete(id)
        const members = new Map(
          [' one', ' two'].map((of) => [
            of,
            [...present]
              .filter(([, { name }]) => name === of)
              .map(([id, { token, data }]): [string, number, string] => [id, token, data])
              .sort((a, b) => a[1] - b[1]),
          ]),
        )
        moments.push({ at: await now(), members })
      }
      const check = async (those: typeof moments) => {
        for (const { at, members } of those) {
          for (const [name, expected] of members) {
            const found = await rows('select id, token::int, data from members_at($1, $2)', [run + name, at])
            expect(found.map(({ id, token, data }) => [id, token, data])).toEqual(expected)
          }
        }
      }
      await check(moments)
      // A thousand times as long ago, so that stays are of all lengths, and a millisecond matters nowhere.
      const end = await now()
      const longAgo = (column: string) => `$1::timestamptz - ($1::timestamptz - ${column}) * 1000`
      await admin.query(
        `update events set at = ${longAgo('at')}, registered_at = ${longAgo('registered_at')} where cluster like $2`,
        [end, `${run} %`],
      )
      await admin.query(
        `update members set registered_at = ${longAgo('registered_at')} where cluster like $2`,
        [end, `${run} %`],
      )
      for (const moment of moments)
        moment.at = (await one(`select (${longAgo('$2::timestamptz')})::text as at`, [end, moment.at]))
          .at as string
      await check(moments)
      const kept = moments.slice(cut % moments.length)
      const stays = `select member, token, left_at, reason, data from stays_between($1, $2) where left_at is not null`
      const before = await rows(stays, [`${run} one`, kept[0]?.at])
      const changes = 'select * from changes where cluster = $1 and at >= $2 order by revision'
      const log = await rows(changes, [`${run} one`, kept[0]?.at])
      // Only what is needed from then on is left.
      await admin.query('select trim_events(clock_timestamp() - $1::timestamptz)', [kept[0]?.at])
      await check(kept)
      expect(await rows(stays, [`${run} one`, kept[0]?.at])).toEqual(before)
      expect(await rows(changes, [`${run} one`, kept[0]?.at])).toEqual(log)
    }),
    { numRuns: 12 },
  )
})

test('contract: stays of every length are found, to the microsecond at both ends', async () => {
  const lengths = [
    '0 s',
    '1 us',
    '999 ms',
    '1 s',
    '5 s',
    '29.999999 s',
    '30 s',
    '2 min',
    '11 min',
    '1 h',
    '6 h',
    '24 h',
    '3 days',
    '168 h',
    '720 h',
    '364 days',
    '8760 h',
    '5 years',
    '30 years',
  ]
  await admin.query(
    `insert into events (cluster, revision, stamp, at, kind, reason, member, token, registered_at)
    select $1, n, gen_random_uuid(), ends, 'left', 'expired', gen_random_uuid(), n, ends - length::interval
    from unnest($2::text[]) with ordinality l (length, n),
      lateral (select timestamptz '2020-02-29 12:00+00' + n * interval '1 min' as ends) e`,
    [cluster, lengths],
  )
  await admin.query(`insert into clusters (name, channel) values ($1, '')`, [cluster])
  const wrong = await rows(
    `with moments as (
      select distinct edge + shift as moment
      from events e, lateral (values (e.at), (e.registered_at)) edges (edge),
        unnest('{-1 us,0,1 us}'::interval[]) shift where e.cluster = $1
    ), found as (
      select moment, array_agg(m.token order by m.token) as tokens from moments, members_at($1, moment) m group by 1
    ), really as (
      select moment, array_agg(e.token order by e.token) as tokens from moments
      join events e on e.cluster = $1 and e.registered_at <= moment and moment < e.at group by 1
    ) select moment, found.tokens, really.tokens as really from found full join really using (moment)
    where found.tokens is distinct from really.tokens`,
    [cluster],
  )
  expect(wrong).toEqual([])
  const [count] = await rows(`select count(*)::int as n from members_at($1, '2020-02-29 12:00+00')`, [
    cluster,
  ])
  expect(count?.n).toBeGreaterThan(5)
  expect(
    await rows(`select from members_at($1, 'infinity') union all select from members_at($1, '-infinity')`, [
      cluster,
    ]),
  ).toEqual([])
})

test('contract: stays_between finds what overlaps a period, and the newest of it first', async () => {
  // In descending order, so that an index alone yields the wrong one of two that ended at the same time.
  await admin.query(
    `insert into events (cluster, revision, stamp, at, kind, reason, member, token, registered_at)
    select $1, n, gen_random_uuid(), timestamptz '2020-01-01Z' + (n + length) * interval '1 min', 'left', 'expired',
      gen_random_uuid(), n, timestamptz '2020-01-01Z' + n * interval '1 min'
    from generate_series(60, 1, -1) n, lateral (select (n * 7919) % 40 as length) l`,
    [cluster],
  )
  await admin.query(
    `insert into clusters (name, revision, last_token, channel) values ($1, 60, 60, channel($1))`,
    [cluster],
  )
  await join(randomUUID())
  const period = ['2020-01-01 00:20Z', '2020-01-01 00:30Z']
  const found = await rows('select token::int, left_at from stays_between($1, $2, $3)', [cluster, ...period])
  const really = await rows(
    `select token::int, at as left_at from events where cluster = $1 and kind = 'left' and registered_at <= $3 and at >= $2
    order by at desc, token desc`,
    [cluster, ...period],
  )
  expect(really.length).toBeGreaterThan(10)
  expect(found).toEqual(really)
  const newest = (n: number, ...more: string[]) =>
    rows('select token::int, left_at from stays_between($1, $2, $3, newest => $4)', [
      cluster,
      ...(more.length ? more : ['-infinity', 'infinity']),
      n,
    ])
  expect(await newest(7, ...period)).toEqual(really.slice(0, 7))
  const all = await rows('select token::int, left_at from stays_between($1)', [cluster])
  expect(all).toHaveLength(61)
  expect(all[0]?.left_at).toBeNull()
  expect(await newest(5)).toEqual(all.slice(0, 5))
})

test('promise 2: a reader whose changes were trimmed away reads everything instead', async () => {
  const [a, b, c, d] = [randomUUID(), randomUUID(), randomUUID(), randomUUID()]
  await join(b, 'b')
  await join(a, 'a')
  await using reader = new PostgresCluster({
    connection: databaseUrl(),
    schema,
    name: cluster,
    listenConnection: false,
    pollMs: 60_000,
    heartbeatMs: 5_000,
  })
  expect((await reader.getMembers()).map(({ id }) => id)).toEqual([b, a])
  // The event at the reader's revision stays, as it says what `a` carries; the leave after it goes.
  await admin.query('delete from members where id = $1', [b])
  await join(c, 'c')
  await admin.query(`update events set at = at - interval '20 s' where cluster = $1`, [cluster])
  await admin.query(`select trim_events('0')`)
  await join(d, 'd')
  expect(await rows(`select revision::int from events where cluster = $1 order by 1`, [cluster])).toEqual([
    { revision: 2 },
    { revision: 4 },
    { revision: 5 },
  ])
  expect((await reader.getMembers({ fresh: true })).map(({ id }) => id)).toEqual([a, c, d])
})
