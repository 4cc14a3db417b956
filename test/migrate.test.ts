import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import fc from 'fast-check'
import pg from 'pg'
import {
  ConnectionError,
  migrate,
  migrationSql,
  OptionError,
  PostgresCluster,
  SchemaError,
} from 'pg-membership'
import { expect, test } from 'vitest'
import { catalogOf } from './support/catalog.js'
import { pgMembership } from './support/command-line.js'
import {
  type AdminClient,
  adminClient,
  databaseUrl,
  freshSchema,
  newSchemaName,
  uniqueName,
} from './support/database.js'
import { startPostgres } from './support/postgres-server.js'
import { until } from './support/until.js'

const NAME = '0001_membership'
const connection = databaseUrl()

/** A database of its own, for what looks at more than one schema. */
async function freshDatabase(): Promise<AsyncDisposable & { readonly url: string }> {
  const name = uniqueName('db')
  const identifier = pg.escapeIdentifier(name)
  await using admin = await adminClient()
  await admin.query(`create database ${identifier}`)
  const url = new URL(databaseUrl())
  url.pathname = `/${name}`
  return {
    url: url.href,
    [Symbol.asyncDispose]: async () => {
      await using admin = await adminClient()
      await admin.query(`drop database ${identifier} with (force)`)
    },
  }
}

/** As another version of the library would say it. */
async function claimVersion(admin: AdminClient, schema: string, version: number, compatibleFrom: number) {
  await admin.query(`
    create or replace function ${pg.escapeIdentifier(schema)}.schema_version(out version integer, out compatible_from integer)
    language sql immutable as 'select ${String(version)}, ${String(compatibleFrom)}'`)
}

async function recordOf(admin: AdminClient, schema: string): Promise<{ name: string; timestamp: string }[]> {
  const table = `${pg.escapeIdentifier(schema)}.pgmembership_migration`
  return (await admin.query<{ name: string; timestamp: string }>(`select * from ${table} order by name`)).rows
}

async function exists(admin: AdminClient, schema: string): Promise<boolean> {
  return (await admin.query('select from pg_namespace where nspname = $1', [schema])).rowCount === 1
}

async function drop(admin: AdminClient, schema: string): Promise<void> {
  await admin.query(`drop schema if exists ${pg.escapeIdentifier(schema)} cascade`)
}

/** Who waits for this session. */
const WAITERS =
  'select pid from pg_locks where not granted and pg_backend_pid() = any (pg_blocking_pids(pid))'

test('contract: migrate runs what is missing, says what it ran, and is a no-op the second time', async () => {
  await using admin = await adminClient()
  const schema = newSchemaName()
  expect(await migrate({ connection, schema })).toEqual([NAME])
  const before = await catalogOf(admin, schema)
  const record = await recordOf(admin, schema)
  expect(record).toEqual([
    { name: NAME, timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]{12}Z$/) as string },
  ])
  expect(
    await migrate({ connection: () => Promise.resolve({ connectionString: connection }), schema }),
  ).toEqual([])
  expect(await catalogOf(admin, schema)).toEqual(before)
  expect(await recordOf(admin, schema)).toEqual(record)
})

test('contract: eight processes that migrate at once all succeed, and one of them does the work', async () => {
  const schema = newSchemaName()
  const script = `
    import { migrate } from 'pg-membership'
    process.stdin.once('data', async () => {
      console.log(JSON.stringify(await migrate({ connection: process.env.URL, schema: process.env.SCHEMA })))
      process.stdin.destroy()
    })
    console.log('ready')`
  const migrators = Array.from({ length: 8 }, () => {
    const env = { ...process.env, URL: connection, SCHEMA: schema }
    const running = promisify(execFile)(process.execPath, ['--input-type=module', '-e', script], { env })
    const ready = new Promise((resolve) => running.child.stdout?.once('data', resolve))
    return { running, ready }
  })
  await Promise.all(migrators.map(({ ready, running }) => Promise.race([ready, running])))
  for (const { running } of migrators) running.child.stdin?.write('go\n')
  const outputs = await Promise.all(
    migrators.map(async ({ running }) => (await running).stdout.split('\n')[1]),
  )
  expect(outputs.filter((output) => output === `["${NAME}"]`)).toHaveLength(1)
  expect(outputs.filter((output) => output === '[]')).toHaveLength(7)
}, 60_000)

test('contract: so do twenty calls at once in one process', async () => {
  const schema = newSchemaName()
  const results = await Promise.all(Array.from({ length: 20 }, () => migrate({ connection, schema })))
  expect(results.flat()).toEqual([NAME])
})

test('contract: migrationSql run by any client gives the same catalog and record as migrate', async () => {
  await using admin = await adminClient()
  const [ours, theirs] = [await freshSchema(), newSchemaName()]
  await admin.query(migrationSql({ schema: theirs }))
  expect(await catalogOf(admin, theirs)).toEqual(await catalogOf(admin, ours))
  const [record] = await recordOf(admin, theirs)
  expect(record?.name).toBe(NAME)
  expect(new Date(record?.timestamp ?? '').toISOString()).toBe(record?.timestamp)
  expect(Math.abs(Date.parse(record?.timestamp ?? '') - Date.now())).toBeLessThan(1_800_000)
  const locks = (schema: string) => admin.query(`select * from ${schema}.pgmembership_migration_lock`)
  expect((await locks(theirs)).rows).toEqual((await locks(ours)).rows)
  expect(await migrate({ connection, schema: theirs })).toEqual([])
  expect(await catalogOf(admin, theirs)).toEqual(await catalogOf(admin, ours))
})

test('contract: going down leaves an empty schema, from which it can go up again', async () => {
  await using admin = await adminClient()
  const schema = await freshSchema()
  const whole = await catalogOf(admin, schema)
  await admin.query(migrationSql({ schema, direction: 'down' }))
  expect(await catalogOf(admin, schema)).toEqual(['schema acl '])
  expect(await migrate({ connection, schema })).toEqual([NAME])
  expect(await catalogOf(admin, schema)).toEqual(whole)
})

test('contract: what was taken back by hand, with the bare file, is brought again', async () => {
  await using admin = await adminClient()
  const schema = await freshSchema()
  const whole = await catalogOf(admin, schema)
  const down = readFileSync(new URL(`../migrations/${NAME}.down.sql`, import.meta.url), 'utf8')
  await admin.query(down.replaceAll(':"schema"', schema))
  expect(await recordOf(admin, schema)).toMatchObject([{ name: NAME }])
  expect(await migrate({ connection, schema })).toEqual([NAME])
  expect(await catalogOf(admin, schema)).toEqual(whole)
  expect(await recordOf(admin, schema)).toMatchObject([{ name: NAME }])
})

test('contract: what was run by hand from the bare file is taken over: recorded, and not run again', async () => {
  await using admin = await adminClient()
  const schema = await freshSchema()
  await admin.query(`drop table ${schema}.pgmembership_migration, ${schema}.pgmembership_migration_lock`)
  expect(await migrate({ connection, schema })).toEqual([])
  expect(await recordOf(admin, schema)).toMatchObject([{ name: NAME }])
  // The same for a team that goes on with migrationSql.
  await admin.query(`truncate ${schema}.pgmembership_migration`)
  await admin.query(migrationSql({ schema, from: 0, to: 0 }))
  expect(await recordOf(admin, schema)).toEqual([])
})

test('promise 14: any name of a schema is only a name', async () => {
  await using admin = await adminClient()
  const names = [
    'we"ird',
    "Robert'); drop schema public; --",
    'line\nbreak',
    ' ',
    'UPPER lower',
    '💥',
    '$1 $& $$',
    ':"schema"',
    '%s\\',
  ]
  const name = fc
    .string({ unit: 'grapheme', minLength: 1, maxLength: 14 })
    .filter((s) => !/^pg_|\0|^\$user$/.test(s) && Buffer.byteLength(s) < 50)
    // Runs share a database with others.
    .map((s) => `${s} ${randomUUID().slice(0, 8)}`)
  await fc.assert(
    fc.asyncProperty(name, async (schema) => {
      try {
        expect(await migrate({ connection, schema })).toEqual([NAME])
        expect(await migrate({ connection, schema })).toEqual([])
        const { rows } = await admin.query<{ token: string }>(
          `select token from ${pg.escapeIdentifier(schema)}.register('c', $1, '{""}', '{0}', '15s', null, 's', 0)`,
          [[randomUUID()]],
        )
        expect(rows).toEqual([{ token: '1' }])
        await admin.query(migrationSql({ schema, direction: 'down' }))
        expect(await catalogOf(admin, schema)).toEqual(['schema acl '])
        await admin.query(migrationSql({ schema }))
        expect(await migrate({ connection, schema })).toEqual([])
      } finally {
        await drop(admin, schema)
      }
    }),
    { numRuns: 6, examples: names.map((example) => [`${example} ${randomUUID().slice(0, 8)}`]) },
  )
  expect(await exists(admin, 'public')).toBe(true)
}, 60_000)

test.each([
  ['a table', 'create table %.customers (id integer)'],
  ['a function', `create function %.total() returns integer language sql as 'select 1'`],
  ['a type', `create type %.mood as enum ('good')`],
  ['a sequence', 'create sequence %.numbers'],
  [
    'a function of that name',
    `create function %.schema_version() returns integer language sql as 'select 1'`,
  ],
])('contract: a schema with %s of somebody else is refused and left as it was', async (_what, ddl) => {
  await using admin = await adminClient()
  const schema = newSchemaName()
  await admin.query(`create schema ${schema}`)
  await admin.query(ddl.replace('%', schema))
  const before = await catalogOf(admin, schema)
  await expect(migrate({ connection, schema })).rejects.toThrow(SchemaError)
  await expect(migrate({ connection, schema })).rejects.toThrow(schema)
  expect(await catalogOf(admin, schema)).toEqual(before)
})

test('contract: an empty schema made by somebody else is used', async () => {
  await using admin = await adminClient()
  const schema = newSchemaName()
  await admin.query(`create schema ${schema}`)
  expect(await migrate({ connection, schema })).toEqual([NAME])
})

test('contract: nothing outside the schema is touched', async () => {
  await using database = await freshDatabase()
  await using admin = await adminClient(database.url)
  await admin.query('create table kysely_migration (name text); create table members (id uuid)')
  const everything = async () => {
    const { rows } = await admin.query<{ line: string }>(`
      select format('%s %s', classid::regclass, pg_describe_object(classid, objid, objsubid)) as line from (
        select 'pg_class'::regclass as classid, oid as objid, 0 as objsubid from pg_class
        where relnamespace <> coalesce(to_regnamespace('ours'), 0) and relnamespace <> 'pg_toast'::regnamespace
        union all select 'pg_proc'::regclass, oid, 0 from pg_proc where pronamespace <> coalesce(to_regnamespace('ours'), 0)
        union all select 'pg_type'::regclass, oid, 0 from pg_type
        where typnamespace not in (coalesce(to_regnamespace('ours'), 0), 'pg_toast'::regnamespace)
        union all select 'pg_namespace'::regclass, oid, 0 from pg_namespace where nspname <> 'ours'
        union all select 'pg_event_trigger'::regclass, oid, 0 from pg_event_trigger
        union all select 'pg_extension'::regclass, oid, 0 from pg_extension
      ) objects
      union all select format('setting %s', setconfig) from pg_db_role_setting
      union all select format('default acl %s', d) from pg_default_acl d order by 1`)
    return rows.map(({ line }) => line)
  }
  const before = await everything()
  await migrate({ connection: database.url, schema: 'ours' })
  expect(await everything()).toEqual(before)
  const leftovers = await admin.query(`select from pg_locks where locktype = 'advisory' and database = (
    select oid from pg_database where datname = current_database())`)
  expect(leftovers.rowCount).toBe(0)
})

test('contract: a newer schema that is compatible is left alone, and clusters work with it', async () => {
  await using admin = await adminClient()
  const schema = await freshSchema()
  await claimVersion(admin, schema, 7, 1)
  const before = await catalogOf(admin, schema)
  expect(await migrate({ connection, schema })).toEqual([])
  expect(await catalogOf(admin, schema)).toEqual(before)
  await using cluster = new PostgresCluster({ connection, schema, name: 'c' })
  expect(await cluster.getMembers()).toEqual([])
})

test('contract: a newer schema that is not compatible is refused with the thing to do', async () => {
  await using admin = await adminClient()
  const schema = await freshSchema()
  await claimVersion(admin, schema, 7, 2)
  const before = await catalogOf(admin, schema)
  await expect(migrate({ connection, schema })).rejects.toThrow(SchemaError)
  await expect(migrate({ connection, schema })).rejects.toThrow('Upgrade the package')
  expect(await catalogOf(admin, schema)).toEqual(before)
  await using cluster = new PostgresCluster({ connection, schema, name: 'c' })
  await expect(cluster.getMembers()).rejects.toThrow('Upgrade the package')
})

test('contract: clusters on a schema that is missing or older say which command to run', async () => {
  await using admin = await adminClient()
  const schema = await freshSchema()
  await claimVersion(admin, schema, 0, 0)
  for (const name of [schema, newSchemaName()]) {
    await using cluster = new PostgresCluster({ connection, schema: name, name: 'c' })
    await expect(cluster.getMembers()).rejects.toThrow(SchemaError)
    await expect(cluster.getMembers()).rejects.toThrow('npx pg-membership migrate')
  }
})

test.each([
  ['compatible', 1],
  ['incompatible', 2],
])(
  'contract: an old migrator that meets a newer, %s one midway does not break anything',
  async (_how, compatibleFrom) => {
    await using admin = await adminClient()
    const schema = newSchemaName()
    await admin.query('begin')
    await admin.query(migrationSql({ schema }))
    const old = migrate({ connection, schema })
    old.catch(() => undefined)
    await until(async () => (await admin.query(WAITERS)).rowCount, { message: 'the old one waits' })
    await admin.query(
      `insert into ${schema}.pgmembership_migration values ('0002_future', '2099-01-01T00:00:00.000Z')`,
    )
    await claimVersion(admin, schema, 2, compatibleFrom)
    await admin.query('commit')
    if (compatibleFrom === 1) expect(await old).toEqual([])
    else await expect(old).rejects.toThrow(SchemaError)
  },
)

test('contract: a migration that fails leaves nothing behind, and tells the first error', async () => {
  await using admin = await adminClient()
  const role = uniqueName('role')
  const identifier = pg.escapeIdentifier(role)
  const schema = newSchemaName()
  await admin.query(`create role ${identifier} login password 'p'`)
  try {
    const url = new URL(connection)
    url.username = role
    url.password = 'p'
    await expect(migrate({ connection: url.href, schema })).rejects.toThrow(SchemaError)
    await expect(migrate({ connection: url.href, schema })).rejects.toThrow('permission denied for database')
    expect(await exists(admin, schema)).toBe(false)
  } finally {
    await admin.query(`drop role ${identifier}`)
  }
})

test('contract: what cannot connect for good is a ConnectionError; a server that is away is told as it is', async () => {
  const wrong = (change: (url: URL) => void) => {
    const url = new URL(connection)
    change(url)
    return migrate({ connection: url.href })
  }
  await expect(wrong((url) => (url.pathname = '/no_such_database'))).rejects.toThrow(ConnectionError)
  await expect(wrong((url) => (url.username = 'no_such_role'))).rejects.toThrow(ConnectionError)
  await expect(wrong((url) => (url.port = '1'))).rejects.toThrow('ECONNREFUSED')
})

test('contract: a standby is refused, and still answers the questions of the command line', async () => {
  await using server = await startPostgres({ fsync: false })
  await migrate({ connection: server.url })
  await server.stop()
  await writeFile(join(server.dataDirectory, 'standby.signal'), '')
  await server.start()
  await expect(migrate({ connection: server.url })).rejects.toThrow('standby')
  const { code, stdout } = await pgMembership(['members'], { DATABASE_URL: server.url })
  expect({ code, stdout }).toEqual({ code: 0, stdout: 'There has never been a member here.\n' })
}, 60_000)

test('promise 12: a server that goes away midway is a rejection, and nothing else', async () => {
  await using admin = await adminClient()
  const schema = newSchemaName()
  await admin.query('begin')
  await admin.query(`create schema ${schema}`)
  const migrating = migrate({ connection, schema })
  migrating.catch(() => undefined)
  await until(async () => (await admin.query(WAITERS)).rowCount, { message: 'it waits for the lock' })
  await admin.query(`select pg_terminate_backend(pid) from (${WAITERS}) waiters`)
  await expect(migrating).rejects.toThrow('terminating connection')
  await admin.query('rollback')
  expect(await exists(admin, schema)).toBe(false)
})

test.each([
  [{ schema: 'pg_mine' }, 'schema'],
  [{ schema: '' }, 'schema'],
  [{ schema: 'x'.repeat(64) }, 'schema'],
  [{ from: -1 }, 'from'],
  [{ from: 1.5 }, 'from'],
  [{ to: 99 }, 'to'],
  [{ to: Number.NaN }, 'to'],
  [{ from: 1, to: 0 }, 'to'],
  [{ direction: 'down' as const, from: 0, to: 1 }, 'to'],
  [{ direction: 'sideways' as 'up' }, 'direction'],
])('contract: migrationSql refuses %j and names the option', (options, name) => {
  expect(() => migrationSql(options)).toThrow(OptionError)
  expect(() => migrationSql(options)).toThrow(`Option ${name} must`)
})

test('contract: migrate refuses a bad schema or connection before it connects', async () => {
  await expect(migrate({ connection, schema: 'pg_mine' })).rejects.toThrow(OptionError)
  await expect(migrate({ connection: 'http://nowhere', schema: 'x' })).rejects.toThrow(OptionError)
  await expect(migrate({ connection: undefined as unknown as string })).rejects.toThrow(OptionError)
})
