import { randomUUID } from 'node:crypto'
import { migrate, PostgresCluster, SchemaError } from 'pg-membership'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { pgMembership } from './support/command-line.js'
import { type AdminClient, adminClient, freshSchema, newSchemaName, uniqueName } from './support/database.js'
import { codeOf, startRoles } from './support/roles.js'
import { until } from './support/until.js'

const NO_PRIVILEGE = '42501'
const REFUSED = '23000'

const { schema, nameOf: roles, urlOf, as } = await startRoles()
let admin: AdminClient
/** Alive, and written by somebody else. */
const ada = randomUUID()

beforeAll(async () => {
  admin = await adminClient()
  await using member = await as('member')
  await member.query(register('team'), [ada])
})

afterAll(() => admin.end())

function register(cluster: string): string {
  return `select token::int from register('${cluster}', array[$1::uuid], '{x}', '{0}', '15s', null, 's', 0)`
}

const QUESTIONS = [
  'select * from members',
  'select * from events',
  'select * from clusters',
  'select * from sweeps',
  'select * from evictions',
  'select * from retention',
  'select * from members_now',
  'select * from held_heartbeats',
  `select * from kept_past_ttl('team')`,
  'select * from claims',
  'select * from claims_now',
  'select * from nonces',
  'select * from nonces_now',
  'select * from stays',
  'select * from changes',
  `select * from members_at('team', now())`,
  `select * from stays_between('team')`,
  `select channel('team')`,
  'select schema_version()',
]

const WRITES = [
  `insert into members (id, cluster) values (gen_random_uuid(), 'team')`,
  `update members set data = 'y'`,
  'update members set heartbeat_at = now()',
  'delete from members',
  'truncate members',
  'select from members for update',
  `insert into events select * from events`,
  `update events set reason = 'removed'`,
  'delete from events',
  'truncate events',
  'update clusters set revision = revision + 1',
  'delete from clusters',
  'truncate clusters',
  `insert into sweeps select * from sweeps`,
  `update sweeps set resumed_at = '-infinity'`,
  'delete from sweeps',
  `insert into evictions select * from evictions`,
  `update evictions set by_role = 'other'`,
  'delete from evictions',
  'delete from retention',
  'delete from claims',
  'update claims set token = 1',
  'select from claims for update',
  'delete from nonces',
  'update nonces set used_at = null',
  'create table mine (id integer)',
  'drop table members',
  'alter table members disable trigger all',
  'do $$ begin lock table members; end $$',
  `create or replace function schema_version() returns integer language sql as 'select 9'`,
  'drop view members_now',
]

const FUNCTIONS_OF_MEMBERS = [
  `select register('team', '{}', '{}', '{}', '15s', null, 's', 0)`,
  `select heartbeat('team', '{}', '{}', 's', 0)`,
  `select set_data('team', '{}', '{}', '{}')`,
  `select deregister('team', '{}', '{}')`,
  `select release('team', '', gen_random_uuid(), 1, '{a}')`,
  `select stock_nonces('team', 'pool', '{a}')`,
  `select return_nonces('team', 'pool', gen_random_uuid(), 1, '{}', '{}', '{}')`,
]
const FENCES = [
  `select fence(gen_random_uuid(), 1::bigint)`,
  `select fence(gen_random_uuid()::text, '1'::text)`,
  `select fence(gen_random_uuid()::text, 1::bigint)`,
  `select fence(gen_random_uuid(), '1'::text)`,
  `select claim('team', '', gen_random_uuid(), 1, '{a}')`,
  `select take_nonces('team', 'pool', gen_random_uuid(), 1, gen_random_uuid(), '{}', 1)`,
  `select use_nonce('team', 'pool', gen_random_uuid(), 1, gen_random_uuid(), 'a')`,
]
const CLAIM_FENCE = `select fence_claims('team', '', gen_random_uuid(), 1, '{a}')`

const FUNCTIONS_OF_OPERATORS = [
  `select evict('nowhere', gen_random_uuid(), 'why')`,
  `select drain('nowhere', gen_random_uuid(), 'why')`,
  `select allow('nowhere', gen_random_uuid())`,
]
const INTERNALS = [
  `select trim_events('0')`,
  `select set_retention('1 day', null)`,
  `select keep_retention(s) from sweeps s`,
  `select note_eviction('team', gen_random_uuid(), 'why', null)`,
  `select advance('team', 1)`,
  `select nameable('{a}')`,
  `select keep_current(gen_random_uuid(), 1, true)`,
  `select fence_obstacles('team', now())`,
]
describe('promise 15: a reader', () => {
  test('can ask every question, and sweep', async () => {
    await using reader = await as('reader')
    for (const question of QUESTIONS)
      expect([question, await codeOf(reader, question)]).toEqual([question, undefined])
    expect(await codeOf(reader, `select sweep('team')`)).toBeUndefined()
  })

  test('can write nothing and call nothing else', async () => {
    await using reader = await as('reader')
    const others = [...FUNCTIONS_OF_MEMBERS, ...FUNCTIONS_OF_OPERATORS, ...FENCES, CLAIM_FENCE, ...INTERNALS]
    for (const text of [...WRITES, ...others]) {
      const code = await codeOf(reader, text)
      expect([text, code]).toEqual([text, NO_PRIVILEGE])
    }
  })

  test('cannot evict the living, however it sweeps', async () => {
    await using reader = await as('reader')
    await reader.query(
      `set timezone = 'Asia/Tokyo'; set datestyle = 'sql, dmy'; set intervalstyle = 'sql_standard'`,
    )
    for (let n = 0; n < 50; n += 1) await reader.query(`select sweep('team')`)
    // Its own objects and settings have no say in what the function does.
    await reader
      .query('create temp table members (like members); create temp table sweeps (like sweeps)')
      .catch(() => undefined)
    await reader.query(`set search_path = pg_temp, ${schema}`)
    await reader.query(`select ${schema}.sweep('team')`)
    expect((await admin.query(`select from ${schema}.members where id = $1`, [ada])).rowCount).toBe(1)
  })

  test('that sweeps sees that a process of another role died, though neither it nor the owner is privileged', async () => {
    const session = uniqueName('session')
    const [dead, alive] = [randomUUID(), randomUUID()]
    await using reader = await as('reader')
    await using living = await as('member')
    await living.query(`set application_name = 'living'`)
    const registering = await as('member')
    await registering.query(`set application_name = '${session}'`)
    const text = `select register('pair', array[$1::uuid], '{x}', '{0}', '15s', '50ms', $2, pg_backend_pid())`
    await registering.query(text, [dead, session])
    await living.query(text, [alive, 'living'])
    await registering.end()
    await until(
      async () => {
        await reader.query(`select sweep('pair')`)
        const { rows } = await admin.query<{ reason: string }>(
          `select reason from ${schema}.events where member = $1 and kind = 'left'`,
          [dead],
        )
        return rows[0]?.reason === 'crashed'
      },
      { message: 'a crash that an unprivileged sweep found' },
    )
    expect((await admin.query(`select from ${schema}.members where id = $1`, [alive])).rowCount).toBe(1)
  })

  test('that sweeps for a cluster that does not exist leaves no trace', async () => {
    await using reader = await as('reader')
    await reader.query(`select sweep('no such cluster')`)
    expect(
      (await admin.query(`select from ${schema}.sweeps where cluster = 'no such cluster'`)).rowCount,
    ).toBe(0)
  })

  test('may watch, but not take part', async () => {
    await using cluster = new PostgresCluster({ connection: urlOf('reader'), schema, name: 'team' })
    expect((await cluster.getMembers()).map(({ id }) => id)).toEqual([ada])
    await expect(cluster.createMembership().register()).rejects.toThrow(SchemaError)
  })
})

describe('promise 15: a member', () => {
  test('can ask every question, and act through the functions', async () => {
    await using member = await as('member')
    for (const text of [...QUESTIONS, ...FUNCTIONS_OF_MEMBERS, `select sweep('team')`]) {
      expect([text, await codeOf(member, text)]).toEqual([text, undefined])
    }
    for (const fence of FENCES) expect([fence, await codeOf(member, fence)]).toEqual([fence, 'MB001'])
    expect(await codeOf(member, CLAIM_FENCE)).toBe('MB002')
  })

  test('can write no table, and neither rewrite nor trim the log', async () => {
    await using member = await as('member')
    for (const text of [...WRITES, ...FUNCTIONS_OF_OPERATORS, ...INTERNALS]) {
      expect([text, await codeOf(member, text)]).toEqual([text, NO_PRIVILEGE])
    }
  })

  test('takes part with nothing but its grants', async () => {
    await using cluster = new PostgresCluster({ connection: urlOf('member'), schema, name: 'work' })
    const membership = cluster.createMembership({ data: 'one' })
    await membership.register()
    await membership.setData('two')
    expect(await cluster.getMembers()).toMatchObject([{ id: membership.id, data: 'two' }])
    await membership.deregister()
    expect(await cluster.getMembers()).toEqual([])
  })

  test('may call migrate where there is nothing to do', async () => {
    expect(await migrate({ connection: urlOf('member'), schema })).toEqual([])
    await expect(migrate({ connection: urlOf('member'), schema: newSchemaName() })).rejects.toThrow(
      'docs/roles.md',
    )
  })
})

describe('promise 15: an operator', () => {
  test('can ask every question, remove members, and nothing else', async () => {
    await using operator = await as('operator')
    for (const text of QUESTIONS) expect([text, await codeOf(operator, text)]).toEqual([text, undefined])
    for (const text of FUNCTIONS_OF_OPERATORS) {
      expect([text, await codeOf(operator, text)]).toEqual([
        text,
        text.includes('allow') ? undefined : 'P0002',
      ])
    }
    for (const text of [...WRITES, ...FUNCTIONS_OF_MEMBERS, ...FENCES, CLAIM_FENCE, ...INTERNALS]) {
      expect([text, await codeOf(operator, text)]).toEqual([text, NO_PRIVILEGE])
    }
  })

  test('is named in the log by the name that it logged in with, and so is everybody', async () => {
    const [id, other] = [randomUUID(), uniqueName('other')]
    await admin.query(`create role "${other}"; grant "${other}" to "${roles.member}", "${roles.operator}"`)
    try {
      await using member = await as('member')
      await using operator = await as('operator')
      for (const kind of ['member', 'operator'] as const) {
        await admin.query(
          (await pgMembership(['sql', '--schema', schema, '--grants', `${kind}=${other}`])).stdout,
        )
      }
      for (const client of [member, operator]) await client.query(`set role "${other}"`)
      await member.query(register('named'), [id])
      await operator.query(`select drain('named', $1, 'first')`, [id])
      await operator.query(`select evict('named', $1, 'second')`, [id])
      const { rows } = await admin.query<object>(
        `select kind, by_role, note from ${schema}.changes where cluster = 'named' order by revision`,
      )
      expect(rows).toEqual([
        { kind: 'joined', by_role: roles.member, note: null },
        { kind: 'left', by_role: roles.operator, note: 'second' },
      ])
    } finally {
      await admin.query(`drop owned by "${other}"; drop role "${other}"`)
    }
  })
})

describe('promise 15: everybody else', () => {
  test('has nothing', async () => {
    await using nobody = await as('nobody')
    const all = [
      ...QUESTIONS,
      ...WRITES,
      ...FUNCTIONS_OF_MEMBERS,
      ...FUNCTIONS_OF_OPERATORS,
      ...FENCES,
      CLAIM_FENCE,
      ...INTERNALS,
      `select sweep('team')`,
    ]
    // The search path skips a schema that one may not use: names are not even found.
    for (const text of all)
      expect([text, await codeOf(nobody, text)]).toEqual([
        text,
        expect.stringMatching(/^(42501|42P01|42883|3F000)$/),
      ])
    const qualified = ['select from $.members', 'select $.sweep($$team$$)', 'select $.schema_version()']
    for (const text of qualified)
      expect(
        await codeOf(
          nobody,
          text.replace('$', () => schema),
        ),
      ).toBe(NO_PRIVILEGE)
  })

  test('public is granted nothing in the schema', async () => {
    const { rows } = await admin.query(
      `select relname as name from pg_class c, aclexplode(c.relacl) a where c.relnamespace = $1::text::regnamespace and a.grantee = 0
      union all select p.oid::regprocedure::text from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
      where p.pronamespace = $1::text::regnamespace and a.grantee = 0
      union all select nspname from pg_namespace n, aclexplode(n.nspacl) a where n.nspname = $1 and a.grantee = 0`,
      [schema],
    )
    expect(rows).toEqual([])
  })

  test('every function pins its search_path, and every security definer is one that the grants name', async () => {
    const { rows } = await admin.query<{ name: string; definer: boolean; pinned: boolean }>(
      // A body of standard SQL looked its names up when it was made.
      `select proname as name, prosecdef as definer,
        prosqlbody is not null or coalesce('search_path=' || $1 || ', pg_temp' = any (proconfig), false) as pinned
      from pg_proc where pronamespace = $1::text::regnamespace`,
      [schema],
    )
    expect(rows.filter(({ pinned }) => !pinned)).toEqual([])
    const definers = new Set(rows.filter(({ definer }) => definer).map(({ name }) => name))
    const triggers = ['announce', 'members_inserted', 'members_deleted', 'members_changed']
    expect([...definers].sort()).toEqual(
      [
        ...triggers,
        'register_as_owner',
        'heartbeat',
        'members_channel',
        'set_data',
        'deregister_as_owner',
        'sweep_as_owner',
        'sweep_idle',
        'fence',
        'claim',
        'release',
        'fence_claims',
        'stock_nonces',
        'take_nonces',
        'use_nonce',
        'return_nonces',
        'evict',
        'drain',
        'allow',
      ].sort(),
    )
  })
})

describe('promise 15: even the owner', () => {
  test('cannot change what a registration is, or empty the table behind the readers', async () => {
    await using owner = await as('owner')
    const before = (await owner.query('select * from members order by id')).rows
    for (const text of [
      'update members set id = gen_random_uuid()',
      `update members set cluster = 'other'`,
      'update members set token = token + 1',
      'truncate members cascade',
    ]) {
      expect([text, await codeOf(owner, text)]).toEqual([text, REFUSED])
    }
    expect((await owner.query('select * from members order by id')).rows).toEqual(before)
  })

  test('leaves a trace when it deletes by hand', async () => {
    await using owner = await as('owner')
    const id = randomUUID()
    await owner.query(`insert into members (id, cluster, data) values ($1, 'hands', 'typed')`, [id])
    await owner.query('delete from members where id = $1', [id])
    const { rows } = await owner.query<object>(
      `select revision::int, kind, reason, data from changes where cluster = 'hands' order by revision`,
    )
    expect(rows).toEqual([
      { revision: 1, kind: 'joined', reason: 'registered', data: 'typed' },
      { revision: 2, kind: 'left', reason: 'removed', data: null },
    ])
    expect(Number((await owner.query<{ n: string }>(`select trim_events('1 day') as n`)).rows[0]?.n)).toBe(0)
  })
})

test('promise 14: a role of one schema has nothing in another', async () => {
  const other = await freshSchema()
  await using member = await as('member')
  expect(await codeOf(member, `select from ${other}.members`)).toBe(NO_PRIVILEGE)
  expect(await codeOf(member, `select ${other}.sweep('team')`)).toBe(NO_PRIVILEGE)
})
