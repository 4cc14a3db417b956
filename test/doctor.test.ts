/** The doctor: each thing that it looks at is well, and then made wrong. */
import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Finding } from '../src/cli/doctor/finding.js'
import { pgMembership } from './support/command-line.js'
import { type AdminClient, adminClient, databaseUrl, freshSchema } from './support/database.js'

let admin: AdminClient
let schema: string

beforeAll(async () => {
  admin = await adminClient()
  schema = await freshSchema()
})
afterAll(() => admin.end())

async function findings(
  url = databaseUrl(),
  name = schema,
): Promise<{ code: number | string; all: Finding[] }> {
  const { code, stdout } = await pgMembership(['doctor', '--json', '--schema', name, '--connection', url])
  return { code, all: JSON.parse(stdout) as Finding[] }
}

const codesOf = (all: readonly Finding[]) => all.map(({ code, severity }) => `${severity} ${code}`)

/** What is wrong, but for the state of the server that all tests share. */
async function wrong(): Promise<string[]> {
  const { all } = await findings()
  return codesOf(all).filter((line) => /^(alert|warning) (drift|row|no-|overdue|schema|listening)/.test(line))
}

test('contract: a new schema has no alert, and every check says what it saw', async () => {
  const { code, all } = await findings()
  expect(code).toBe(0)
  expect(all.filter(({ severity }) => severity === 'alert')).toEqual([])
  const codes = all.map((finding) => finding.code)
  for (const expected of [
    'drift',
    'privileges',
    'row-security',
    'sweeping',
    'clock',
    'members-table',
    'log',
    'listening',
  ])
    expect(codes).toContain(expected)
  for (const { severity, consequence, todo } of all)
    if (severity !== 'ok') expect([consequence, todo]).not.toContain('')
  const { stdout } = await pgMembership(['doctor', '--schema', schema])
  expect(stdout).toContain('ok       LISTEN works through this connection.')
})

test.each([
  [
    'a function with another body',
    `create or replace function $.channel(cluster_name text) returns text language sql as 'select ''x'''`,
  ],
  ['a trigger that is switched off', 'alter table $.members disable trigger user'],
  ['an index that is missing', 'drop index $.events_in_time'],
  ['a view that is missing', 'drop view $.changes'],
])('contract: the catalog has drifted: %s', async (_, sql) => {
  const other = await freshSchema()
  expect(codesOf((await findings(databaseUrl(), other)).all)).toContain('ok drift')
  await admin.query(sql.replaceAll('$', other))
  const { code, all } = await findings(databaseUrl(), other)
  expect(code).toBe(3)
  expect(codesOf(all)).toContain('alert drift')
})

test('contract: row level security without its policy is an alert', async () => {
  await admin.query(`alter table ${schema}.members enable row level security`)
  expect(await wrong()).toEqual([])
  await admin.query(`drop policy by_grants_alone on ${schema}.members`)
  expect(await wrong()).toEqual(['alert row-security'])
  await admin.query(`create policy by_grants_alone on ${schema}.members using (true) with check (true)`)
  await admin.query(`alter table ${schema}.members disable row level security`)
})

test('contract: members that nobody sweeps are an alert, those past their ttl a warning', async () => {
  await admin.query(
    `select from ${schema}.register('quiet', array[$1::uuid], '{""}', '{0}', '15s', null, 's', 0)`,
    [randomUUID()],
  )
  expect(await wrong()).toEqual([])
  await admin.query(
    `update ${schema}.sweeps set swept_at = swept_at - interval '1 min' where cluster = 'quiet'`,
  )
  expect(await wrong()).toEqual(['alert no-sweeper'])
  await admin.query(
    `update ${schema}.sweeps set swept_at = clock_timestamp() + interval '1 min' where cluster = 'quiet'`,
  )
  await admin.query(
    `update ${schema}.members set heartbeat_at = heartbeat_at - interval '1 min' where cluster = 'quiet'`,
  )
  expect(await wrong()).toEqual(['warning overdue'])
})

test('contract: a schema that is missing is an alert, and says which command to run', async () => {
  const { code, all } = await findings(databaseUrl(), 'no_such_schema')
  expect(code).toBe(3)
  expect(all[0]).toMatchObject({
    code: 'schema-version',
    severity: 'alert',
    todo: 'Run: npx pg-membership migrate',
  })
})

test('promise 15: a role without grants is told so; a reader sees all that concerns members', async () => {
  const role = `doctor_${randomUUID().slice(0, 8)}`
  await admin.query(`create role ${role} login; grant usage on schema ${schema} to ${role}`)
  const url = new URL(databaseUrl())
  url.username = role
  const { code, all } = await findings(url.href)
  expect(code).toBe(3)
  expect(all[0]?.what).toContain('The schema is not granted to this role')
  expect(all[0]?.todo).toContain('pg-membership sql --grants')
  const { stdout: grants } = await pgMembership(['sql', '--grants', `reader=${role}`, '--schema', schema])
  await admin.query(grants)
  const granted = await findings(url.href)
  expect(granted.all.find((finding) => finding.code === 'privileges')?.what).toBe(
    `The role ${role} may read.`,
  )
  expect(codesOf(granted.all).filter((line) => line.endsWith('-unknown'))).toEqual([])
  await admin.query(`drop owned by ${role}; drop role ${role}`)
})
