/** What psql and the library run is assembled from schema/, and committed: the two must not differ. */
import { readdirSync, readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { assembled, CONCEPTS } from '../scripts/schema.js'
import { catalogOf } from './support/catalog.js'
import { adminClient, freshSchema, newSchemaName } from './support/database.js'

const ROOT = new URL('../', import.meta.url)
const UP = 'migrations/0001_membership.up.sql'

test.each([...assembled()])('contract: %s is what `npm run schema` writes', (path, text) => {
  expect(readFileSync(new URL(path, ROOT), 'utf8')).toBe(text)
})

test('every file of schema/ has its place in the order', () => {
  const files = readdirSync(new URL('schema/', ROOT))
  expect(files.sort()).toEqual(CONCEPTS.map((name) => `${name}.sql`).sort())
})

test('promise 12: the SQL is ASCII, so that a database in any encoding takes it', () => {
  const foreign = [...assembled()].flatMap(([path, text]) =>
    path.endsWith('.sql')
      ? [...text.matchAll(/[^\n\x20-\x7e]/g)].map(([letter]) => `${path}: ${letter}`)
      : [],
  )
  expect(foreign).toEqual([])
})

test('no name of a shared text is left where psql would run it', () => {
  const left = [...assembled()].flatMap(([path, text]) =>
    path.endsWith('.sql')
      ? [...text.matchAll(/(?<![:\w]):[a-z]\w*/g)].map(([name]) => `${path}: ${name}`)
      : [],
  )
  expect(left).toEqual([])
})

test('contract: a database that ran every migration has what schema/ says, and nothing else', async () => {
  await using admin = await adminClient()
  const schema = newSchemaName()
  await admin.query((assembled().get(UP) ?? '').replaceAll(':"schema"', schema))
  const migrated = await catalogOf(admin, await freshSchema())
  expect(await catalogOf(admin, schema)).toEqual(
    migrated.filter((line) => !line.includes('pgmembership_migration')),
  )
})
