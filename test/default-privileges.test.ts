/** Default privileges are an everyday setting. Whatever they give, each role has what this project grants, and no more. */
import { readFileSync } from 'node:fs'
import pg from 'pg'
import { migrate, migrationSql } from 'pg-membership'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { pgMembership } from './support/command-line.js'
import { type AdminClient, adminClient, databaseUrl, uniqueName } from './support/database.js'
import { codeOf } from './support/roles.js'

const database = uniqueName('db')
const ROLES = ['owner', 'app', 'readonly', 'ops'] as const
type Role = (typeof ROLES)[number]
const nameOf = Object.fromEntries(ROLES.map((role) => [role, uniqueName(role)])) as Record<Role, string>
const quoted = (role: Role): string => pg.escapeIdentifier(nameOf[role])

let admin: AdminClient

function urlOf(role: Role): string {
  const url = new URL(databaseUrl())
  url.pathname = `/${database}`
  url.username = nameOf[role]
  url.password = 'p'
  return url.href
}

beforeAll(async () => {
  await using server = await adminClient()
  for (const role of ROLES) await server.query(`create role ${quoted(role)} login password 'p'`)
  await server.query(`create database ${pg.escapeIdentifier(database)} owner ${quoted('owner')}`)
  admin = await adminClient(Object.assign(new URL(databaseUrl()), { pathname: `/${database}` }).href)
  await using owner = await adminClient(urlOf('owner'))
  for (const kind of ['tables', 'sequences', 'functions', 'types', 'schemas']) {
    for (const grantee of ['public', quoted('app'), `${quoted('readonly')} with grant option`]) {
      if (grantee === 'public' && kind === 'schemas') continue
      await owner.query(`alter default privileges grant all on ${kind} to ${grantee}`)
    }
  }
})
afterAll(async () => {
  await admin.end()
  await using server = await adminClient()
  await server.query(`drop database ${pg.escapeIdentifier(database)} with (force)`)
  for (const role of ROLES) await server.query(`drop role ${quoted(role)}`)
})

/** Every right of somebody other than the owner, on the schema and all that is in it. */
async function rightsIn(schema: string): Promise<string[]> {
  const { rows } = await admin.query<{ line: string }>(
    `select format('%s: %s on %s%s', case when grantee = 0 then 'public' else pg_get_userbyid(grantee) end,
       lower(privilege_type), what, case when is_grantable then ' with grant option' end) as line
     from (
       select 'schema' as what, nspowner as owner, coalesce(nspacl, acldefault('n', nspowner)) as acl
       from pg_namespace where nspname = $1
       union all
       select relname, relowner, coalesce(relacl, acldefault(case relkind when 'S' then 's' else 'r' end::"char", relowner))
       from pg_class where relnamespace = quote_ident($1)::regnamespace and relkind in ('r', 'v', 'm', 'f', 'p', 'S')
       union all
       select relname || '.' || attname, relowner, attacl
       from pg_attribute a join pg_class c on c.oid = attrelid where relnamespace = quote_ident($1)::regnamespace
       union all
       select proname || '()', proowner, coalesce(proacl, acldefault('f', proowner))
       from pg_proc where pronamespace = quote_ident($1)::regnamespace
       union all
       select 'type ' || typname, typowner, coalesce(typacl, acldefault('T', typowner))
       from pg_type where typnamespace = quote_ident($1)::regnamespace and typtype in ('d', 'e', 'r')
     ) o cross join aclexplode(acl) where grantee <> owner order by 1`,
    [schema],
  )
  // There are several functions fence.
  return [...new Set(rows.map(({ line }) => line))]
}

/** What grants of these kinds give, as the printed text says it. */
function granted(text: string, role: string): string[] {
  const lines = new Set<string>()
  for (const [, right = '', objects = ''] of text
    .replaceAll(/^--.*$/gm, '')
    .matchAll(/grant (\w+) on (.*?) to /gs)) {
    if (objects.startsWith('schema')) lines.add(`${role}: usage on schema`)
    for (const [, name = ''] of objects.matchAll(/\.(\w+)/g))
      lines.add(`${role}: ${right} on ${name}${right === 'execute' ? '()' : ''}`)
  }
  return [...lines]
}

const NAME = '0001_membership'
const file = (): string => readFileSync(new URL(`../migrations/${NAME}.up.sql`, import.meta.url), 'utf8')

const WAYS: readonly (readonly [string, string, (schema: string) => Promise<unknown>])[] = [
  ['migrate()', 'one', (schema) => migrate({ connection: urlOf('owner'), schema })],
  [
    'the printed SQL',
    'two',
    async (schema) => {
      await using owner = await adminClient(urlOf('owner'))
      await owner.query(migrationSql({ schema, to: 1 }))
    },
  ],
  [
    'the bare file, and migrate() after it',
    'three "odd" $$',
    async (schema) => {
      await using owner = await adminClient(urlOf('owner'))
      await owner.query(file().replaceAll(':"schema"', () => pg.escapeIdentifier(schema)))
      expect(await migrate({ connection: urlOf('owner'), schema })).toEqual([])
    },
  ],
]

describe.each(WAYS)(
  'promise 15: after default privileges that give everything to everybody, %s',
  (_, schema, install) => {
    const name = pg.escapeIdentifier(schema)

    test('leaves the owner alone with what it made', async () => {
      await install(schema)
      expect(await rightsIn(schema)).toEqual([])
    })

    test('and the grants of the project give what they say, which no later call takes back', async () => {
      const kinds = { member: 'app', reader: 'readonly', operator: 'ops' } as const
      await using owner = await adminClient(urlOf('owner'))
      const expected: string[] = []
      for (const [kind, role] of Object.entries(kinds)) {
        const { stdout } = await pgMembership([
          'sql',
          '--schema',
          schema,
          '--grants',
          `${kind}=${nameOf[role]}`,
        ])
        await owner.query(stdout)
        expected.push(...granted(stdout.replaceAll(name, 'x'), nameOf[role]))
      }
      expect(await migrate({ connection: urlOf('owner'), schema })).toEqual([])
      expect(await rightsIn(schema)).toEqual([...new Set(expected)].toSorted())
      expect(expected.length).toBeGreaterThan(90)
    })

    test('a reader reads no key and deletes nothing', async () => {
      await using readonly = await adminClient(urlOf('readonly'))
      for (const text of [
        `select * from ${name}.members_channels`,
        `delete from ${name}.members`,
        `delete from ${name}.events`,
        `select ${name}.evict('c', gen_random_uuid(), 'n')`,
        `insert into ${name}.pgmembership_migration values ('x', 'y')`,
      ])
        expect([text, await codeOf(readonly, text)]).toEqual([text, '42501'])
    })
  },
)
