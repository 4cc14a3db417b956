import { randomUUID } from 'node:crypto'
import pg from 'pg'
import { migrate } from 'pg-membership'
import { inject } from 'vitest'

/** The PostgreSQL that all test files of a run share, as a superuser. */
export function databaseUrl(): string {
  return inject('databaseUrl')
}

export type AdminClient = pg.Client & AsyncDisposable

/** A plain connection, for looking and breaking from outside: `await using admin = await adminClient()`. */
export async function adminClient(connectionString = databaseUrl()): Promise<AdminClient> {
  const client = new pg.Client({ connectionString, application_name: 'test admin' })
  // Tests stop servers under their clients; the next query tells.
  client.on('error', () => undefined)
  await client.connect()
  return Object.assign(client, { [Symbol.asyncDispose]: () => client.end() })
}

/** A name that no other test of any run uses, so that files and runs share a database. */
export function uniqueName(prefix = 'cluster'): string {
  return `${prefix}-${randomUUID().slice(0, 13)}`
}

const schemas: string[] = []

/** A name for a schema that does not exist yet; what is made under it is dropped after the file. */
export function newSchemaName(): string {
  const schema = uniqueName('test').replaceAll('-', '_')
  schemas.push(schema)
  return schema
}

/** A schema of the library's, migrated; dropped after the file. */
export async function freshSchema(): Promise<string> {
  const schema = newSchemaName()
  await migrate({ connection: databaseUrl(), schema })
  return schema
}

/** After each test file. */
export async function dropSchemas(): Promise<void> {
  if (schemas.length === 0) return
  await using admin = await adminClient()
  for (const schema of schemas.splice(0)) {
    await admin.query(`drop schema if exists ${admin.escapeIdentifier(schema)} cascade`)
  }
}
