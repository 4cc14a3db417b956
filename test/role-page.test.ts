/**
 * docs/roles.md to the letter: what it says to run is run, by the roles that it names, in a database of its own. Then
 * each role tries everything that is there, and may do what its grants say, and nothing else.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type pg from 'pg'
import { PostgresCluster, SchemaError } from 'pg-membership'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { pgMembership } from './support/command-line.js'
import { type AdminClient, adminClient, databaseUrl, uniqueName } from './support/database.js'
import { ROOT, textOf } from './support/documents.js'
import { openAdmin } from './support/opened.js'
import { codeOf, KINDS } from './support/roles.js'

const NO_PRIVILEGE = '42501'
const SCHEMA = 'pgmembership'

const page = textOf('docs/roles.md')
const [, commands = ''] = /## Setting them up\n\n```sh\n(.*?)```/s.exec(page) ?? []
const lines = commands.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
/** The roles of the page, by kind. */
const example = Object.fromEntries(
  [...commands.matchAll(/\b(\w+)=(\w+)\b/g)].map(([, kind = '', role = '']) => [kind, role]),
)
const nameOf = Object.fromEntries(
  [...Object.keys(example), 'nobody'].map((kind) => [kind, uniqueName(kind).replaceAll('-', '_')]),
)
const database = uniqueName('roles').replaceAll('-', '_')

let admin: AdminClient

beforeAll(async () => {
  await using server = await adminClient()
  await server.query(`create database ${database}`)
  for (const role of Object.values(nameOf)) await server.query(`create role ${role} login password 'p'`)
  admin = await adminClient(urlOf())
  for (const line of lines) await run(line)
  await using member = await adminClient(urlOf('member'))
  await member.query(
    `select ${SCHEMA}.register('team', array[gen_random_uuid()], '{x}', '{0}', '1h', null, 's', 0)`,
  )
})

afterAll(async () => {
  await admin.end()
  await using server = await adminClient()
  await server.query(`drop database ${database} with (force)`)
  for (const role of Object.values(nameOf)) await server.query(`drop role ${role}`)
})

/** By default as a superuser. */
function urlOf(kind?: string): string {
  const url = new URL(databaseUrl())
  url.pathname = `/${database}`
  if (kind !== undefined) Object.assign(url, { username: nameOf[kind], password: 'p' })
  return url.href
}

/** With the test's names instead of the page's. */
function withNames(text: string): string {
  return Object.entries(example).reduce(
    (named, [kind, role]) => named.replaceAll(new RegExp(`\\b${role}\\b(?!_)`, 'g'), nameOf[kind] ?? ''),
    text,
  )
}

async function run(command: string): Promise<void> {
  const [, owner, args = '', psql] =
    /^(DATABASE_URL="\$OWNER_URL" )?npx pg-membership (.*?)(?: \| psql "\$(\w+)_URL")?$/.exec(command) ?? []
  const env = owner === undefined ? {} : { DATABASE_URL: urlOf('owner') }
  const { code, stdout, stderr } = await pgMembership(withNames(args).split(' '), env)
  expect(code, `${command}\n${stderr}`).toBe(0)
  if (psql === undefined) return
  await using client = await adminClient(urlOf(psql === 'ADMIN' ? undefined : psql.toLowerCase()))
  await client.query(stdout)
}

/** What the grants of a kind name: all get those of a reader. */
function grantsOf(kind: string): string {
  const read = (file: string): string => readFileSync(join(ROOT, `migrations/grants/${file}.sql`), 'utf8')
  return [...new Set(['reader', kind])].map(read).join('\n')
}

function isGranted(kind: string, what: string): boolean {
  return grantsOf(kind)
    .replaceAll(':"schema".', '')
    .replaceAll(/\(\s+/g, '(')
    .split(/[\s,;]+(?![^(]*\))/)
    .includes(what)
}

async function column(text: string): Promise<string[]> {
  const { rows } = await admin.query<string[]>({ text, rowMode: 'array' })
  return rows.map(([value = '']) => value)
}

async function expectCode(client: pg.ClientBase, text: string, allowed: boolean): Promise<void> {
  await client.query('begin')
  const code = await codeOf(client, text)
  await client.query('rollback')
  if (allowed) expect([text, code]).not.toEqual([text, NO_PRIVILEGE])
  else expect([text, code]).toEqual([text, NO_PRIVILEGE])
}

test('promise 15: the page has a row, and a command, for each kind that there are grants for', () => {
  const kinds = ['owner', ...KINDS].sort()
  const rows = [...page.matchAll(/^\| (\w+) +\|/gm)].map(([, kind]) => kind).slice(1)
  expect(rows.sort()).toEqual(kinds)
  expect(Object.keys(example).sort()).toEqual(kinds)
})

test('promise 15: the commands of the page have set everything up', async () => {
  expect(lines.length).toBeGreaterThan(2)
  await using member = await adminClient(urlOf('member'))
  expect((await member.query(`select from ${SCHEMA}.members_now where cluster = 'team'`)).rowCount).toBe(1)
})

describe.each([...KINDS, 'nobody'])('promise 15: a %s', (kind) => {
  const granted = (what: string): boolean => kind !== 'nobody' && isGranted(kind, what)

  test('reads the tables and views of its grants, and no others, and writes none', async () => {
    await using client = await adminClient(urlOf(kind))
    const relations = await column(
      `select relname::text from pg_class where relnamespace = '${SCHEMA}'::regnamespace and relkind in ('r', 'v')`,
    )
    expect(relations.length).toBeGreaterThan(5)
    for (const name of relations) await expectCode(client, `select * from ${SCHEMA}.${name}`, granted(name))
    const tables = await column(
      `select relname::text from pg_class where relnamespace = '${SCHEMA}'::regnamespace and relkind = 'r'`,
    )
    for (const name of tables) {
      const [column1 = ''] = await column(
        `select attname::text from pg_attribute where attrelid = '${SCHEMA}.${name}'::regclass and attnum = 1`,
      )
      for (const text of [
        `insert into ${SCHEMA}.${name} default values`,
        `update ${SCHEMA}.${name} set ${column1} = null`,
        `delete from ${SCHEMA}.${name}`,
        `truncate ${SCHEMA}.${name}`,
        `select from ${SCHEMA}.${name} for update`,
        `create trigger mine after insert on ${SCHEMA}.${name} execute function suppress_redundant_updates_trigger()`,
      ])
        await expectCode(client, text, false)
    }
    await expectCode(client, `create table ${SCHEMA}.mine (id integer)`, false)
    await expectCode(client, `create table public.mine (it uuid references ${SCHEMA}.members)`, false)
  })

  test('calls the functions of its grants, and no others', async () => {
    await using client = await adminClient(urlOf(kind))
    const functions = await column(
      `select format('%s(%s)', proname, replace(oidvectortypes(proargtypes), 'timestamp with time zone', 'timestamptz'))
       from pg_proc where pronamespace = '${SCHEMA}'::regnamespace`,
    )
    expect(functions.length).toBeGreaterThan(20)
    for (const signature of functions) {
      const nulls = signature.replaceAll(/(?<=\(|, )([^,)]+)/g, 'null::$1')
      await expectCode(client, `select ${SCHEMA}.${nulls}`, granted(signature))
    }
  })

  // The others have nothing that a cluster could use.
  if (kind !== 'nobody')
    test('uses a cluster as far as that goes; a SchemaError names the page', async () => {
      const options = { connection: urlOf(kind), name: 'team', closeTimeoutMs: 1_000 }
      await using cluster = new PostgresCluster(options)
      expect(await cluster.getMembers()).toHaveLength(1)
      const registering = cluster.createMembership().register()
      if (grantsOf(kind).includes('.register(')) {
        await registering
        await cluster.close()
        return
      }
      await expect(registering).rejects.toThrow(SchemaError)
      await expect(registering).rejects.toThrow('docs/roles.md')
    })
})

test('promise 15: what the page shows as a call, the owner may call, and only those to whom it is granted', async () => {
  const calls = [...page.matchAll(/`select (pgmembership\.(\w+)\([^`]*\))`/g)]
  expect(calls.length).toBeGreaterThan(1)
  for (const [, call = '', name = ''] of calls) {
    for (const kind of ['owner', ...KINDS, 'nobody']) {
      await using client = await adminClient(urlOf(kind))
      const allowed = kind === 'owner' || (kind !== 'nobody' && grantsOf(kind).includes(`.${name}(`))
      await expectCode(client, `select ${call}`, allowed)
    }
  }
})

test('promise 15: the owner has a schema of its own, and nothing else in the database', async () => {
  await using owner = await adminClient(urlOf('owner'))
  await expectCode(owner, 'create schema another', false)
  expect(await codeOf(owner, `select ${SCHEMA}.trim_events('1 day')`)).toBeUndefined()
  expect(await codeOf(owner, `create table ${SCHEMA}.mine (); drop table ${SCHEMA}.mine`)).toBeUndefined()
})

test('promise 15: a reader from whom sweeping is revoked, as the page says, reads as before', async () => {
  const [, revoke = ''] = /`(revoke execute [^`]+ from \w+)`/.exec(page) ?? []
  const owner = await openAdmin(urlOf('owner'))
  await owner.query(withNames(revoke))
  onTestFinished(async () => {
    await owner.query(
      withNames(revoke)
        .replace('revoke', 'grant')
        .replace(/ from (\w+)$/, ' to $1'),
    )
  })
  await using reader = await adminClient(urlOf('reader'))
  for (const call of [`sweep('team')`, `sweep_as_owner('team')`, `sweep_idle('{team}')`])
    await expectCode(reader, `select ${SCHEMA}.${call}`, false)
  await using cluster = new PostgresCluster({
    connection: urlOf('reader'),
    name: 'team',
    closeTimeoutMs: 1_000,
  })
  expect(await cluster.getMembers()).toHaveLength(1)
})
