import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { diagnose } from '../src/cli/doctor/diagnose.js'
import type { Finding } from '../src/cli/doctor/finding.js'
import type { Hearing } from '../src/cli/doctor/hearing.js'
import { queryOf } from '../src/postgres/query.js'
import { pgMembership } from './support/command-line.js'
import { type AdminClient, adminClient, freshSchema, newSchemaName } from './support/database.js'
import { startRoles } from './support/roles.js'

let schema: string
let admin: AdminClient

beforeEach(async () => {
  schema = await freshSchema()
  admin = await adminClient()
  await admin.query(`set search_path = ${schema}`)
})
afterEach(() => admin.end())

async function findings(client = admin, name = schema, hearing: Hearing = 'hears'): Promise<Finding[]> {
  await client.query('begin read only')
  try {
    return await diagnose({
      query: queryOf(client, name),
      schema: name,
      hearing: Promise.resolve(hearing),
    })
  } finally {
    await client.query('rollback')
  }
}

/** Those that concern this schema: other tests share the server. */
async function trouble(...args: Parameters<typeof findings>): Promise<string[]> {
  const shared = ['long-transactions', 'connections', 'notification-queue']
  const found = (await findings(...args)).filter(
    ({ severity, code }) => severity !== 'ok' && !shared.includes(code),
  )
  for (const { consequence, todo } of found) expect([consequence, todo]).not.toContain('')
  return found.map(({ severity, code, what }) => `${severity} ${code}: ${what}`)
}

describe('contract: the doctor', () => {
  test('finds nothing where nothing is wrong', async () => {
    expect(await trouble()).toEqual([])
  })

  test.each([
    ['drop index events_in_time', 'alert schema-drift: index events_in_time is missing'],
    [
      'alter table members drop column suspected_at cascade',
      'alert schema-drift: column members.suspected_at is missing',
    ],
    [
      'alter table members disable trigger members_changed',
      'alert schema-drift: trigger members_changed is switched off or invalid',
    ],
    [
      'create or replace function drop_cluster(cluster_name text) returns void language sql as $$ select $$',
      'alert schema-drift: function drop_cluster was changed',
    ],
    [
      'alter function sweep_as_owner(text) security invoker',
      'alert schema-drift: function sweep_as_owner was changed',
    ],
    ['create table customers (id integer)', 'note schema-extras: not of this package: table customers'],
    [
      'alter table members enable row level security; drop policy by_grants_alone on members',
      'alert row-security: row level security hides rows of members',
    ],
  ])('%s', async (sql, expected) => {
    await admin.query(sql)
    expect(await trouble()).toContain(expected)
  })

  test('a schema that is missing, and a pooler', async () => {
    expect(await trouble(admin, newSchemaName())).toContain('alert schema-version: The schema is missing')
    expect(await trouble(admin, schema, 'pooled')).toEqual([
      expect.stringContaining('warning listen: a pooler'),
    ])
  })

  test('a member past its ttl that nobody sweeps: exit code 3, with --json too', async () => {
    const id = randomUUID()
    await admin.query(`select register('chat', array[$1::uuid], '{x}', '{0}', '15s', null, 's', 0)`, [id])
    await admin.query(`alter table members disable trigger user`)
    await admin.query(`update members set heartbeat_at = heartbeat_at - interval '1 min'`)
    await admin.query(`alter table members enable trigger user`)
    await admin.query(`delete from sweeps`)
    const { code, stdout, stderr } = await pgMembership(['doctor', '--schema', schema])
    expect({ code, stderr }).toEqual({ code: 3, stderr: '' })
    expect(stdout).toContain(`ALERT    members-overdue: past their ttl, but not removed: chat ${id}\n`)
    expect(stdout).toContain('ALERT    sweeping: nobody sweeps "chat"\n')
    const json = await pgMembership(['doctor', '--schema', schema, '--json'])
    expect(json.code).toBe(3)
    expect(JSON.parse(json.stdout)).toContainEqual(
      expect.objectContaining({ code: 'sweeping', severity: 'alert' }),
    )
  })

  test('a reader may run it; what the role may not see is a note, and nothing fails', async () => {
    const roles = await startRoles()
    await using reader = await roles.as('reader')
    const found = await findings(reader, roles.schema)
    expect(found.filter(({ severity }) => severity === 'alert')).toEqual([])
    expect(found.filter(({ what }) => what.startsWith('could not be checked'))).toEqual([])
    expect(found).toContainEqual(
      expect.objectContaining({
        code: 'privileges',
        severity: 'note',
        what: expect.stringContaining('register') as string,
      }),
    )
    expect(found.map(({ what }) => what)).toContain('this role sees only its own transactions')
    await using nobody = await roles.as('nobody')
    const unseen = await findings(nobody, roles.schema)
    expect(unseen).toContainEqual(expect.objectContaining({ code: 'members-overdue', severity: 'note' }))
    expect(unseen).toContainEqual(expect.objectContaining({ code: 'locks', severity: 'ok' }))
  })
})
