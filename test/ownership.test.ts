/** Whose schema it is: nobody installs into, or asks, a schema in which another role could have put something. */
import { readFileSync } from 'node:fs'
import pg from 'pg'
import { migrate, migrationSql, SchemaError } from 'pg-membership'
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { pgMembership } from './support/command-line.js'
import { type AdminClient, adminClient, databaseUrl, uniqueName } from './support/database.js'
import { until } from './support/until.js'

const NAME = '0001_membership'
const database = uniqueName('db')
const ROLES = ['super', 'owner', 'stranger', 'login', 'member'] as const
type Role = (typeof ROLES)[number]
const nameOf = Object.fromEntries(ROLES.map((role) => [role, uniqueName(role)])) as Record<Role, string>
const quoted = (role: Role): string => pg.escapeIdentifier(nameOf[role])

/** A superuser, in the database of this file. */
let admin: AdminClient
/** Tests count on: each has a schema of its own. */
let count = 0
let schema: string

function urlOf(role: Role): string {
  const url = new URL(databaseUrl())
  url.pathname = `/${database}`
  url.username = nameOf[role]
  url.password = 'p'
  return url.href
}

async function as(role: Role): Promise<AdminClient> {
  const client = await adminClient(urlOf(role))
  onTestFinished(() => client.end())
  return client
}

beforeAll(async () => {
  await using server = await adminClient()
  for (const role of ROLES) {
    const kind = role === 'super' ? 'superuser' : ''
    await server.query(`create role ${quoted(role)} login password 'p' ${kind}`)
  }
  await server.query(`create database ${pg.escapeIdentifier(database)} owner ${quoted('owner')}`)
  admin = await adminClient(urlOf('super'))
  await admin.query(`grant create on database ${pg.escapeIdentifier(database)} to ${quoted('stranger')}`)
})
beforeEach(() => {
  schema = `s${String((count += 1))}`
})
afterAll(async () => {
  await admin.end()
  await using server = await adminClient()
  await server.query(`drop database ${pg.escapeIdentifier(database)} with (force)`)
  for (const role of ROLES) await server.query(`drop role ${quoted(role)}`)
})

/** The documented ways to install, each as this role. */
const WAYS: readonly (readonly [string, (role: Role) => Promise<unknown>])[] = [
  ['migrate()', (role) => migrate({ connection: urlOf(role), schema })],
  [
    'the printed SQL',
    async (role) => {
      await using client = await adminClient(urlOf(role))
      await client.query(migrationSql({ schema, to: 1 }))
    },
  ],
  [
    'the bare file',
    async (role) => {
      const file = readFileSync(new URL(`../migrations/${NAME}.up.sql`, import.meta.url), 'utf8')
      await using client = await adminClient(urlOf(role))
      await client.query(file.replaceAll(':"schema"', pg.escapeIdentifier(schema)))
    },
  ],
]

/** Made by the stranger, so that it tells who runs it. */
const TRAP = `
  create table %.ran (by_role text, what text);
  grant all on %.ran to public;
  create function %.note(what text) returns boolean language plpgsql as
    $$ begin insert into %.ran values (current_user, what); return true; end $$;
  create function %.schema_version(out version integer, out compatible_from integer) language sql volatile as
    $$ select 1, 1 from %.note('schema_version') $$;
  create view %.members as select 1 as id from %.note('members');
  create table %.pgmembership_migration (name text primary key, timestamp text);
  create table %.pgmembership_migration_lock (id text primary key, is_locked integer);
  create function %.caught() returns trigger language plpgsql as
    $$ begin perform %.note('record'); return new; end $$;
  create trigger caught before insert on %.pgmembership_migration_lock for each row execute function %.caught();
  grant all on all tables in schema % to public;
  grant usage, create on schema % to public`

async function trapped(): Promise<void> {
  await using stranger = await adminClient(urlOf('stranger'))
  await stranger.query(`create schema ${schema}`)
  await stranger.query(TRAP.replaceAll('%', schema))
}

async function ranBy(): Promise<string[]> {
  return (
    await admin.query<{ ran: string }>(`select by_role || ' ' || what as ran from ${schema}.ran`)
  ).rows.map(({ ran }) => ran)
}

async function objects(): Promise<number | null> {
  return (await admin.query(`select from pg_depend where refobjid = $1::text::regnamespace`, [schema]))
    .rowCount
}

describe('promise 15: a schema that a stranger made first', () => {
  test.each(WAYS)(
    'is refused by %s, as the owner and as a superuser, and nothing of it is run',
    async (_, install) => {
      await trapped()
      const before = await objects()
      for (const role of ['owner', 'super'] as const) await expect(install(role)).rejects.toThrow()
      expect(await ranBy()).toEqual([])
      expect(await objects()).toBe(before)
    },
  )

  test('is told as what it is, with what to do, and no command asks it', async () => {
    await trapped()
    await admin.query(`revoke create on schema ${schema} from public`)
    for (const role of ['owner', 'super'] as const) {
      const refused = migrate({ connection: urlOf(role), schema })
      await expect(refused).rejects.toThrow(SchemaError)
      await expect(refused).rejects.toThrow(`Schema "${schema}" is owned by role "${nameOf.stranger}"`)
    }
    for (const command of [
      ['members'],
      ['history'],
      ['trim', '--older-than', '1d'],
      ['uninstall', '--yes'],
    ]) {
      const { code, stderr } = await pgMembership([...command, '--schema', schema], {
        DATABASE_URL: urlOf('super'),
      })
      expect([command, code]).toEqual([command, 1])
      expect(stderr).toContain(`is owned by role "${nameOf.stranger}"`)
    }
    expect(await ranBy()).toEqual([])
  })

  test.each(WAYS)('is refused by %s where it is empty, too', async (_, install) => {
    await admin.query(`create schema ${schema} authorization ${quoted('stranger')}`)
    await admin.query(`grant all on schema ${schema} to ${quoted('owner')}`)
    for (const role of ['owner', 'super'] as const) {
      await expect(install(role)).rejects.toThrow(/is owned by role|may create objects/)
    }
    expect(await objects()).toBe(0)
  })

  test('is not taken by the printed grants of an owner', async () => {
    await admin.query(`create schema ${schema} authorization ${quoted('stranger')}`)
    const { stdout } = await pgMembership(['sql', '--schema', schema, '--grants', `owner=${nameOf.owner}`])
    await expect(admin.query(stdout)).rejects.toMatchObject({ code: '42P06' })
  })
})

describe('promise 15: a schema of the owner', () => {
  test.each(WAYS)(
    'in which another role may create is refused by %s until that is revoked',
    async (_, install) => {
      await admin.query(`create schema ${schema} authorization ${quoted('owner')}`)
      await admin.query(`grant create on schema ${schema} to ${quoted('stranger')}`)
      await expect(install('owner')).rejects.toThrow(/may create objects in/)
      expect(await objects()).toBe(0)
      await admin.query(`revoke create on schema ${schema} from ${quoted('stranger')}`)
      await install('owner')
      expect(await migrate({ connection: urlOf('owner'), schema })).toEqual([])
      // A superuser may do so anyway.
      await admin.query(`grant create on schema ${schema} to ${quoted('super')}`)
      expect(await migrate({ connection: urlOf('owner'), schema })).toEqual([])
    },
  )

  test.each(WAYS)('that has an object of another role is refused by %s', async (_, install) => {
    await admin.query(`create schema ${schema} authorization ${quoted('owner')}`)
    await admin.query(
      `create function ${schema}.quote_ident(name) returns text language sql as 'select $1::text'`,
    )
    await admin.query(`alter function ${schema}.quote_ident(name) owner to ${quoted('stranger')}`)
    await expect(install('owner')).rejects.toThrow(/objects? (of role|that are not)/)
    expect(await objects()).toBe(1)
  })

  test('is not asked any more when another role may create in it, or has something in it', async () => {
    await migrate({ connection: urlOf('owner'), schema })
    const asked = async () => {
      const { code, stderr } = await pgMembership(['members', '--schema', schema], {
        DATABASE_URL: urlOf('owner'),
      })
      return { code, stderr }
    }
    expect(await asked()).toEqual({ code: 0, stderr: '' })
    await admin.query(`grant create on schema ${schema} to public`)
    await expect(migrate({ connection: urlOf('owner'), schema })).rejects.toThrow(
      `Schema "${schema}" is open: everybody may create objects in it. Choose another schema, or as its owner ` +
        `"${nameOf.owner}": revoke create on schema "${schema}" from public`,
    )
    expect(await asked()).toEqual({ code: 1, stderr: expect.stringContaining('is open') as string })
    await admin.query(`revoke create on schema ${schema} from public`)
    await admin
      .query(`create operator ${schema}.* (leftarg = numeric, rightarg = integer, function = numeric_mul)`)
      .catch(() =>
        admin.query(
          `create function ${schema}.now() returns timestamptz language sql as 'select clock_timestamp()'`,
        ),
      )
    expect(await asked()).toEqual({
      code: 1,
      stderr: expect.stringContaining(`of role ${nameOf.super}`) as string,
    })
  })

  test('is migrated by a member of that role that is told to act as it, and by no other', async () => {
    await admin.query(`create schema ${schema} authorization ${quoted('owner')}`)
    await admin.query(`grant ${quoted('owner')} to ${quoted('login')}`)
    await expect(migrate({ connection: urlOf('login'), schema })).rejects.toThrow(
      `alter role "${nameOf.login}" set role "${nameOf.owner}"`,
    )
    await admin.query(`alter role ${quoted('login')} set role ${quoted('owner')}`)
    expect(await migrate({ connection: urlOf('login'), schema })).toEqual([NAME])
    await expect(migrate({ connection: urlOf('super'), schema })).rejects.toThrow(
      'the rights of the superuser',
    )
    // Who cannot install is content with what is there.
    await admin.query(`grant usage on schema ${schema} to ${quoted('member')};
      grant execute on function ${schema}.schema_version() to ${quoted('member')}`)
    expect(await migrate({ connection: urlOf('member'), schema })).toEqual([])
  })

  test('may be called public, if nobody else may create in it', async () => {
    schema = 'public'
    await admin.query(`grant create on schema public to public`)
    if (
      Number(
        (await admin.query<{ v: string }>(`select current_setting('server_version_num') as v`)).rows[0]?.v,
      ) < 150_000
    )
      await admin.query(`alter schema public owner to ${quoted('owner')}`)
    await expect(migrate({ connection: urlOf('owner'), schema })).rejects.toThrow(
      'revoke create on schema "public" from public',
    )
    await admin.query(`revoke create on schema public from public`)
    expect(await migrate({ connection: urlOf('owner'), schema })).toEqual([NAME])
    expect(await migrate({ connection: urlOf('owner'), schema })).toEqual([])
    // Other applications have something there.
    const { rows } = await admin.query(`select has_schema_privilege($1, 'public', 'usage') as may`, [
      nameOf.member,
    ])
    expect(rows).toEqual([{ may: true }])
  })
})

describe('promise 11: a stranger', () => {
  test('cannot hold up migrate by an advisory lock', async () => {
    const stranger = await as('stranger')
    await stranger.query('begin')
    await stranger.query(
      `select pg_advisory_xact_lock(hashtextextended('pg-membership migrate ' || $1, 0))`,
      [schema],
    )
    await stranger.query('select pg_advisory_xact_lock(3853314791062309107)')
    expect(await migrate({ connection: urlOf('owner'), schema })).toEqual([NAME])
  })

  test('that makes the schema at the same moment is named within seconds', async () => {
    const stranger = await as('stranger')
    await stranger.query(`set application_name = 'slow'; begin; create schema ${schema}`)
    const { rows } = await stranger.query<{ pid: number }>('select pg_backend_pid() as pid')
    const migrating = migrate({ connection: urlOf('owner'), schema })
    await expect(migrating).rejects.toThrow(SchemaError)
    await expect(migrating).rejects.toThrow(
      `Cannot migrate: role "${nameOf.stranger}" (pid ${String(rows[0]?.pid)}, application "slow") holds it up`,
    )
    await expect(migrating).rejects.toThrow(`select pg_terminate_backend(${String(rows[0]?.pid)})`)
    await stranger.query('rollback')
    expect(await migrate({ connection: urlOf('owner'), schema })).toEqual([NAME])
  })

  test('is not taken for one who migrates, too, and is waited for', async () => {
    const other = await as('owner')
    await other.query(`begin; create schema ${schema}`)
    const migrating = migrate({ connection: urlOf('owner'), schema })
    migrating.catch(() => undefined)
    // It looks who makes it wait after three seconds, and goes on waiting.
    const waits = `select from pg_stat_activity
      where usename = $1 and wait_event_type = 'Lock' and query_start < clock_timestamp() - interval '5 s'`
    await until(async () => (await admin.query(waits, [nameOf.owner])).rowCount, {
      message: 'it waits for five seconds',
    })
    await other.query('commit')
    expect(await migrating).toEqual([NAME])
  })
})
