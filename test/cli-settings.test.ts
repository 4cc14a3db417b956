/** Roles and databases have settings of their own, which reach into every query. They must not matter. */
import { randomUUID } from 'node:crypto'
import pg from 'pg'
import { migrate } from 'pg-membership'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { catalogOf } from './support/catalog.js'
import { pgMembership } from './support/command-line.js'
import { type AdminClient, adminClient, databaseUrl, uniqueName } from './support/database.js'
import { until } from './support/until.js'

/** Whoever has this schema first in the path meets other things under the names of PostgreSQL's. */
const TRAP = `
  create schema trap;
  create function trap.clock_timestamp() returns timestamptz language sql as $$ select 'epoch'::timestamptz $$;
  create function trap.pg_is_in_recovery() returns boolean language sql as $$ select true $$;
  create function trap.hashtextextended(text, bigint) returns bigint language sql as $$ select 1/0 $$;
  create function trap.set_config(text, text, boolean) returns text language sql as $$ select 'trapped' $$;
  create table trap.pg_namespace (oid oid, nspname name);
  grant usage on schema trap to public;
  create access method trap type table handler heap_tableam_handler`

const SETTINGS: readonly (readonly [string, string])[] = [
  ['DateStyle', `'SQL, DMY'`],
  ['DateStyle', `'German'`],
  ['DateStyle', `'Postgres, MDY'`],
  ['IntervalStyle', 'sql_standard'],
  ['IntervalStyle', 'iso_8601'],
  ['search_path', 'trap, pg_catalog'],
  ['search_path', `''`],
  ['TimeZone', `'Asia/Kathmandu'`],
  ['bytea_output', 'escape'],
  ['standard_conforming_strings', 'off'],
  ['backslash_quote', 'off'],
  ['array_nulls', 'off'],
  ['transform_null_equals', 'on'],
  ['extra_float_digits', '-15'],
  ['quote_all_identifiers', 'on'],
  ['client_encoding', 'LATIN1'],
  ['client_min_messages', 'debug5'],
  ['default_transaction_isolation', 'serializable'],
  ['default_transaction_read_only', 'on'],
  ['default_transaction_deferrable', 'on'],
  ['row_security', 'off'],
  ['idle_in_transaction_session_timeout', `'1ms'`],
  ['default_table_access_method', 'trap'],
]
/** The command line is slow to start, so it gets all at once; the last of a name counts, and these go last. */
const ROUNDS = [
  [],
  SETTINGS.filter(([name, value]) => value.includes('SQL') || name === 'search_path').slice(0, 2),
  SETTINGS.filter(([, value]) => value.includes('German') || value.includes('sql_')),
]

const role = uniqueName('odd')
const database = uniqueName('settings')
const bob = randomUUID()
let admin: AdminClient
/** As the superuser, and as the role. */
let superUrl: string
let url: string

beforeAll(async () => {
  const at = new URL(databaseUrl())
  at.pathname = `/${database}`
  superUrl = at.href
  at.username = role
  at.password = 'p'
  url = at.href
  {
    await using server = await adminClient()
    await server.query(`create role ${pg.escapeIdentifier(role)} login password 'p'`)
    await server.query(`create database ${pg.escapeIdentifier(database)} owner ${pg.escapeIdentifier(role)}`)
  }
  admin = await adminClient(superUrl)
  await admin.query(TRAP)
  await migrate({ connection: url })

  await admin.query('set search_path = pgmembership')
  const register = `select token from register($3, array[$1::uuid], array[convert_to($2, 'UTF8')], '{0}', '15s', null, 's', 0)`
  await admin.query(register, [randomUUID(), 'it\'s \\x41 "quoted" é', 'chat'])
  await admin.query(register, [bob, 'http://10.0.0.1:8080', 'chat'])
  await admin.query(`update members set data = 'draining' where id = $1`, [bob])
  await admin.query(`select deregister('chat', array[$1::uuid], '{2}')`, [bob])
  await admin.query(register, [randomUUID(), 'x', 'o"th\\er'])
  // Long ago, and half an hour from the next full hour: what is printed stays the same.
  await admin.query(`
    update members set registered_at = registered_at - interval '5 days 12 hours 30 minutes',
      heartbeat_at = heartbeat_at - interval '3 days 2 hours 30 minutes';
    update events set registered_at = registered_at - interval '5 days 12 hours 30 minutes',
      at = at - interval '5 days 12 hours 30 minutes' + case kind when 'left' then interval '90 minutes' else '0' end`)
})

afterAll(async () => {
  await admin.end()
  await using server = await adminClient()
  await server.query(`drop database if exists ${pg.escapeIdentifier(database)} with (force)`)
  await server.query(`drop role if exists ${pg.escapeIdentifier(role)}`)
})

/** What the role or its database is set to, and nothing else. */
async function alter(whose: 'role' | 'database', ...settings: (readonly [string, string])[]): Promise<void> {
  await admin.query(`alter role ${pg.escapeIdentifier(role)} reset all`)
  await admin.query(`alter database ${pg.escapeIdentifier(database)} reset all`)
  for (const [name, value] of settings) {
    const target = `${whose} ${pg.escapeIdentifier(whose === 'role' ? role : database)}`
    await admin.query(`alter ${target} set ${name} = ${value}`)
  }
}

const QUESTIONS = [
  ['members'],
  ['members', 'chat', '--at', '5d', '--json'],
  ['members', 'nobody', '--at', '2020-02-01'],
  ['history', 'chat', '--since', '6d'],
  ['history', '--member', bob, '--json'],
  ['history', '--stays', '--limit', '2'],
  ['history', '--stays', '--member', bob, '--since', '2020-02-01T03:04Z', '--json'],
]

/** All that the commands answer, but for the seconds that go by. */
async function answers(): Promise<unknown[]> {
  return Promise.all(
    QUESTIONS.map(async (args) => {
      const { stdout, ...rest } = await pgMembership(args, { DATABASE_URL: url })
      return {
        args,
        ...rest,
        stdout: stdout.replace(/("(?:hereFor|silentFor|stayed)Ms": \d+)\d{6}\b/g, '$1'),
      }
    }),
  )
}

async function catalog(client: AdminClient, schema: string): Promise<string[]> {
  const { rows } = await client.query<{ line: string }>(
    `select format('%s is kept by %s', relname, amname) as line from pg_class c
    join pg_am m on m.oid = c.relam where relkind = 'r' and relnamespace = $1::text::regnamespace order by 1`,
    [schema],
  )
  return [...(await catalogOf(client, schema)), ...rows.map(({ line }) => line)]
}

describe('the command line', () => {
  let expected: unknown[]

  beforeAll(async () => {
    vi.stubEnv('TZ', 'America/St_Johns')
    await alter('role')
    expected = await answers()
    expect(expected).toEqual(expected.map(() => expect.objectContaining({ code: 0, stderr: '' }) as unknown))
  })

  afterAll(() => {
    vi.unstubAllEnvs()
  })

  test.each(ROUNDS.map((last) => [last]))(
    'answers the same whatever the settings of the role are: %j',
    async (last) => {
      await alter('role', ...SETTINGS, ...last)
      expect(await answers()).toEqual(expected)
    },
  )

  test('answers the same whatever the settings of the database are', async () => {
    await alter('database', ...SETTINGS)
    expect(await answers()).toEqual(expected)
  })

  test('keeps to a bound of its own, whatever the timeouts of the role are', async () => {
    await alter('role', ['statement_timeout', `'100ms'`], ['lock_timeout', `'100ms'`])
    await whileLocked('lock table pgmembership.clusters', async (waiting) => {
      const asked = pgMembership(['members', 'nobody'], { DATABASE_URL: url })
      await waiting(200)
      return asked
    }).then((outcome) => expect(outcome).toMatchObject({ code: 0, stderr: '' }))
  })
})

describe('migrate', () => {
  let usual: string[]

  beforeAll(async () => {
    await alter('role')
    await migrate({ connection: url, schema: 'usual' })
    usual = await catalog(admin, 'usual')
  })

  test.each(SETTINGS)('makes the same schema when the role has %s = %s', async (name, value) => {
    await admin.query('drop schema if exists odd cascade')
    await alter('role', [name, value])
    expect(await migrate({ connection: url, schema: 'odd' })).toEqual(['0001_membership'])
    expect(await migrate({ connection: url, schema: 'odd' })).toEqual([])
    expect(await catalog(admin, 'odd')).toEqual(usual)
  })

  test('waits for another, whatever the timeouts of the role are', async () => {
    await alter('role', ['statement_timeout', `'100ms'`], ['lock_timeout', `'100ms'`])
    await admin.query('drop schema if exists odd cascade')
    // Somebody is making the schema, and gives up.
    const done = await whileLocked('create schema odd', async (waiting) => {
      const migrating = migrate({ connection: url, schema: 'odd' })
      migrating.catch(() => undefined)
      await waiting(200)
      return migrating
    })
    expect(done).toEqual(['0001_membership'])
  })

  test('does its work when the application has changed how pg reads types', async () => {
    await admin.query('drop schema if exists odd cascade')
    // boolean, name, bigint, integer, text, json, text[]
    type Id = Parameters<typeof pg.types.setTypeParser>[0]
    const before = [16, 19, 20, 23, 25, 114, 1009].map((id) => {
      const oid = id as unknown as Id
      const parse = pg.types.getTypeParser(oid) as (text: string) => unknown
      return { oid, parse }
    })
    for (const { oid } of before) pg.types.setTypeParser(oid, (text: string) => ({ text }))
    try {
      expect(await migrate({ connection: url, schema: 'odd' })).toEqual(['0001_membership'])
      expect(await migrate({ connection: url, schema: 'odd' })).toEqual([])
    } finally {
      for (const { oid, parse } of before) pg.types.setTypeParser(oid, parse)
    }
  })
})

/** Holds a lock until `waiting` has seen somebody wait for so long, and gives what came of it. */
async function whileLocked<T>(
  lock: string,
  act: (waiting: (ms: number) => Promise<unknown>) => Promise<T>,
): Promise<T> {
  await using holder = await adminClient(superUrl)
  await holder.query('begin')
  await holder.query(lock)
  const waiting = async (ms: number): Promise<void> => {
    const query = `select from pg_stat_activity where usename = $1 and wait_event_type = 'Lock'
      and clock_timestamp() - query_start > $2::float8 * interval '1 ms'`
    await until(async () => (await admin.query(query, [role, ms])).rowCount, { message: 'somebody waits' })
    await holder.query('rollback')
  }
  return await act(waiting)
}
