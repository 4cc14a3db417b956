import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { migrate } from 'pg-membership'
import { inject } from 'vitest'

/** The PostgreSQL that all test files of a run share, as a superuser. */
export function databaseUrl(): string {
  return inject('databaseUrl')
}

export type AdminClient = pg.Client & AsyncDisposable

/** Connections to the shared server that a test has given back. Opening one takes 20 ms of processor time. */
const idle = new Set<AdminClient>()

/** A plain connection, for looking and breaking from outside: `await using admin = await adminClient()`. */
export async function adminClient(connectionString = databaseUrl()): Promise<AdminClient> {
  const isShared = connectionString === databaseUrl()
  if (isShared) {
    for (const client of idle) {
      idle.delete(client)
      return client
    }
  }
  const client = new pg.Client({ connectionString, application_name: 'test admin' })
  // Tests stop servers under their clients; the next query tells.
  client.on('error', () => undefined)
  await client.connect()
  const admin: AdminClient = Object.assign(client, {
    [Symbol.asyncDispose]: () => (isShared ? giveBack(admin) : client.end()),
  })
  client.on('end', () => idle.delete(admin))
  return admin
}

/** As new for who gets it next; or closed, if it broke or a statement goes on. */
async function giveBack(client: AdminClient): Promise<void> {
  const cleaned = client.query('rollback').then(() => client.query('discard all'))
  const isClean = await Promise.race([cleaned.then(() => true), sleep(200, false)]).catch(() => false)
  if (!isClean) return client.end()
  for (const event of ['notice', 'notification']) client.removeAllListeners(event)
  idle.add(client)
}

/**
 * The one row of each query. Each is a transaction of its own, and no time passes between them but the server's own: what
 * is about to end by itself does not end meanwhile.
 */
export async function inOneRoundTrip<R>(
  admin: Pick<pg.Client, 'query'>,
  queries: readonly string[],
): Promise<R[]> {
  const text = queries.map((query) => `begin; ${query}; commit`).join('; ')
  const results = (await admin.query(text)) as unknown as readonly pg.QueryResult[]
  return results.filter(({ command }) => command === 'SELECT').map(({ rows }) => rows[0] as R)
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
