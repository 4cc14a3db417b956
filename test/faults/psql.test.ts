import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import pg from 'pg'
import { migrate, migrationSql } from 'pg-membership'
import { expect, test } from 'vitest'
import { catalogOf } from '../support/catalog.js'
import { adminClient, databaseUrl, freshSchema, newSchemaName, uniqueName } from '../support/database.js'

const connection = databaseUrl()

function file(name: string): string {
  return fileURLToPath(new URL(`../../migrations/${name}`, import.meta.url))
}

async function psql(...args: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)('psql', [
    '-X',
    '-q',
    '-v',
    'ON_ERROR_STOP=1',
    ...args,
    connection,
  ])
  return stdout
}

const RECORDS = 'pgmembership_migration'

test.each(['plain', 'odd "name"; drop schema public'])(
  'contract: the files run under psql as they stand, in a schema called %s',
  async (prefix) => {
    await using admin = await adminClient()
    const schema = `${prefix} ${uniqueName()}`
    const identifier = pg.escapeIdentifier(schema)
    const ours = await freshSchema()
    try {
      await psql('-v', `schema=${schema}`, '-f', file('0001_membership.up.sql'))
      const bare = (await catalogOf(admin, ours)).filter((line) => !line.includes(RECORDS))
      expect(await catalogOf(admin, schema)).toEqual(bare)
      // Taken over, not run again; from then on as if migrate() had done it.
      expect(await migrate({ connection, schema })).toEqual([])
      expect(await catalogOf(admin, schema)).toEqual(await catalogOf(admin, ours))
      const record = await admin.query(`select name from ${identifier}.pgmembership_migration`)
      expect(record.rows).toEqual([{ name: '0001_membership' }])
      await psql('-v', `schema=${schema}`, '-f', file('0001_membership.down.sql'))
      expect((await catalogOf(admin, schema)).filter((line) => !line.includes(RECORDS))).toEqual([
        'schema acl ',
      ])
    } finally {
      await admin.query(`drop schema if exists ${identifier} cascade`)
    }
  },
)

test('contract: migrationSql runs under psql, where substitution is on, and ends like migrate', async () => {
  await using admin = await adminClient()
  const [ours, theirs] = [await freshSchema(), newSchemaName()]
  const directory = mkdtempSync(join(tmpdir(), 'pg-membership-psql-'))
  try {
    const printed = join(directory, 'printed.sql')
    writeFileSync(printed, migrationSql({ schema: theirs }))
    await psql('-1', '-f', printed)
  } finally {
    rmSync(directory, { recursive: true })
  }
  expect(await catalogOf(admin, theirs)).toEqual(await catalogOf(admin, ours))
  expect(await migrate({ connection, schema: theirs })).toEqual([])
})

test('promise 15: the grants run under psql as they stand, for a role of any name', async () => {
  await using admin = await adminClient()
  const schema = await freshSchema()
  const role = `odd "role" ${uniqueName()}`
  await admin.query(`create role ${pg.escapeIdentifier(role)}`)
  try {
    for (const name of ['reader', 'member', 'operator']) {
      await psql('-v', `schema=${schema}`, '-v', `role=${role}`, '-f', file(`grants/${name}.sql`))
    }
    const { rows } = await admin.query(
      `select has_table_privilege($1, $2 || '.members', 'select') as reads, has_table_privilege($1, $2 || '.members', 'update') as writes,
        has_function_privilege($1, $2 || '.fence(uuid, bigint)', 'execute') as fences,
        has_function_privilege($1, $2 || '.allow(text, uuid)', 'execute') as allows`,
      [role, schema],
    )
    expect(rows).toEqual([{ reads: true, writes: false, fences: true, allows: true }])
  } finally {
    await admin.query(`drop owned by ${pg.escapeIdentifier(role)}; drop role ${pg.escapeIdentifier(role)}`)
  }
})
