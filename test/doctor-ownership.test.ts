/** The doctor on whose the schema is, who has more rights than its kind, and where roles look for names. */
import pg from 'pg'
import { migrate } from 'pg-membership'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { diagnose } from '../src/cli/doctor/diagnose.js'
import type { Finding } from '../src/cli/doctor/finding.js'
import { queryOf } from '../src/postgres/query.js'
import { pgMembership } from './support/command-line.js'
import { type AdminClient, adminClient, databaseUrl, freshSchema, uniqueName } from './support/database.js'

let schema: string
let admin: AdminClient

beforeAll(async () => {
  schema = await freshSchema()
  admin = await adminClient()
  await admin.query(`set search_path = ${schema}`)
})
afterAll(() => admin.end())

/** After what somebody has done, which is taken back afterwards. */
async function findings(after: string): Promise<Finding[]> {
  await admin.query('begin')
  try {
    await admin.query(after)
    return await diagnose({ query: queryOf(admin, schema), schema, hearing: undefined })
  } finally {
    await admin.query('rollback')
  }
}

describe('contract: the doctor', () => {
  test.each([
    [
      'grant create on schema % to public',
      'alert schema-owner: Schema "%" is open: everybody may create objects in it',
    ],
    [
      'create role evil; grant create on schema % to evil',
      'alert schema-owner: Schema "%" is open: role "evil" may create objects in it',
    ],
    [
      'create role evil; alter function sweep_overdue(text) owner to evil',
      'alert schema-owner: Schema "%" is owned by role "postgres", and has objects that are not: function sweep_overdue(text) of role evil',
    ],
    [
      `create function public.other_clock() returns timestamptz language sql as 'select now()';
        alter table members alter heartbeat_at set default public.other_clock()`,
      'alert schema-bound: default value for column heartbeat_at of table members uses function public.other_clock()',
    ],
    [
      `create function quote_ident(name) returns text language sql as 'select $1::text'`,
      'alert schema-code: not of this package: function quote_ident',
    ],
    [
      'create operator * (leftarg = numeric, rightarg = numeric, function = numeric_mul)',
      'alert schema-code: not of this package: operator *',
    ],
    [
      'create role evil; grant delete, select on members to evil; grant select on members_channels to evil with grant option',
      'alert rights: "evil" has delete on members, "evil" has select on members_channels with grant option',
    ],
    ['grant execute on function evict to public', 'alert rights: public has execute on evict'],
    [
      'create role evil; grant update (data) on members to evil',
      'alert rights: "evil" has update on members',
    ],
    [
      'create role evil; grant pg_write_all_data to evil',
      'alert rights: "evil" writes every table (pg_write_all_data)',
    ],
    [
      'create role backup; grant pg_read_all_data to backup',
      'warning keys: the keys of announcements may be read by "backup" (pg_read_all_data)',
    ],
    [
      'create role spy; grant execute on function members_channel to spy',
      'warning keys: the keys of announcements may be read by "spy"',
    ],
    [
      'create role app; create schema evil; grant usage on schema % to app; alter role app set search_path = evil, pg_catalog',
      'alert search-path: in a search_path before pg_catalog: "evil" of role "app"',
    ],
    [
      `create role app; create role evil; create schema theirs authorization evil; grant usage on schema % to app;
        alter role app set search_path = "$user", theirs`,
      'warning search-path: in a search_path, and others may create in it: "theirs" of role "app"',
    ],
    [
      `select members_channel('original'); insert into members_channels
        select 'copy', name, key, inner_pad, outer_pad, 'database 1 of server 2' from members_channels`,
      'warning copied: made in another database (database 1 of server 2): the keys of "copy"',
    ],
  ])('%s', async (sql, expected) => {
    const found = (await findings(sql.replaceAll('%', schema))).filter(({ severity }) => severity !== 'ok')
    for (const { consequence, todo } of found) expect([consequence, todo]).not.toContain('')
    expect(found.map(({ severity, code, what }) => `${severity} ${code}: ${what}`)).toContain(
      expected.replaceAll('%', schema),
    )
  })

  test('asks nothing of a schema in which a stranger could have put something', async () => {
    const found = await findings(`grant create on schema ${schema} to public`)
    expect(
      found.filter(({ what }) => what.includes('the schema is not asked')).map(({ code }) => code),
    ).toEqual(['schema-version', 'copied', 'members-overdue', 'kept-members', 'sweeping'])
  })

  test('each statement that mends something does', async () => {
    await admin.query('begin')
    await admin.query(`create role evil; grant delete on members to evil; grant execute on function evict to public;
      grant update (data) on members to evil; grant create on schema ${schema} to evil; grant usage on schema ${schema} to evil;
      create schema theirs; grant create on schema theirs to public; alter role evil set search_path = theirs, pg_catalog`)
    const asked = { query: queryOf(admin, schema), schema, hearing: Promise.resolve('hears' as const) }
    const codes = ['schema-owner', 'rights', 'search-path']
    const mine = async () =>
      (await diagnose(asked)).filter(({ code, severity }) => codes.includes(code) && severity !== 'ok')
    const first = await mine()
    expect([...new Set(first.map(({ code }) => code))].toSorted()).toEqual(codes.toSorted())
    const mend = async (found: readonly Finding[]) => {
      for (const { todo } of found)
        for (const [statement] of todo.matchAll(/(revoke|alter role) [^;]*?(?=;|\. Then|$)/g))
          await admin.query(statement)
    }
    await mend(first)
    // On PostgreSQL 14 everybody may create in public, which is in the path now.
    await mend(await mine())
    expect(await mine()).toEqual([])
    await admin.query('rollback')
  })

  test('a copy of a database is noticed until its keys are renewed, and a healthy one with roles has nothing', async () => {
    await using server = await adminClient()
    const [original, copy] = [uniqueName('db'), uniqueName('db')]
    const [owner, app, auditor] = [uniqueName('owner'), uniqueName('app'), uniqueName('auditor')]
    const at = (database: string): string => {
      const url = new URL(databaseUrl())
      return Object.assign(url, { pathname: `/${database}`, username: owner }).href
    }
    const quoted = (name: string): string => pg.escapeIdentifier(name)
    onTestFinished(async () => {
      await using last = await adminClient()
      for (const name of [original, copy])
        await last.query(`drop database if exists ${quoted(name)} with (force)`)
      for (const name of [owner, app, auditor]) await last.query(`drop role ${quoted(name)}`)
    })
    for (const name of [owner, app, auditor]) await server.query(`create role ${quoted(name)} login`)
    await server.query(`create database ${quoted(original)} owner ${quoted(owner)}`)
    const look = async (database: string, before?: string) => {
      await using client = await adminClient(at(database))
      if (before !== undefined) await client.query(before)
      await client.query('begin read only')
      const found = await diagnose({
        query: queryOf(client, 'pgmembership'),
        schema: 'pgmembership',
        hearing: undefined,
      })
      const shared = ['long-transactions', 'connections', 'notification-queue']
      return found
        .filter(({ severity, code }) => severity !== 'ok' && !shared.includes(code))
        .map(({ severity, code, what }) => `${severity} ${code}: ${what}`)
    }
    const superuser = new URL(databaseUrl())
    superuser.pathname = `/${original}`
    {
      // PostgreSQL 14 lets everybody create in public.
      await using client = await adminClient(superuser.href)
      await client.query('revoke create on schema public from public')
    }
    await migrate({ connection: at(original) })
    const { stdout } = await pgMembership(['sql', '--grants', `member=${app},reader=${auditor}`])
    expect(await look(original, `${stdout}; select pgmembership.members_channel('chat')`)).toEqual([])
    await server.query(`create database ${quoted(copy)} template ${quoted(original)} owner ${quoted(owner)}`)
    expect(await look(copy)).toEqual([
      expect.stringMatching(
        /^warning copied: made in another database \(database \d+ of server \d+\): the keys of "chat"$/,
      ),
    ])
    expect(
      await look(copy, 'select pgmembership.renew_members_channel(name) from pgmembership.clusters'),
    ).toEqual([expect.stringMatching(/^warning copied/)])
    expect(
      await look(
        copy,
        'select pgmembership.renew_members_channel(cluster) from pgmembership.members_channels',
      ),
    ).toEqual([])
    expect(await look(original)).toEqual([])
  })
})
