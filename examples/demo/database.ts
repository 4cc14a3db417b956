/** Where the demo runs: the PostgreSQL of DATABASE_URL, in a schema of its own, or a server that lives as long as the demo. */
import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { migrate } from 'pg-membership'
import { startPostgres } from '../../test/support/postgres-server.js'

export interface Database extends AsyncDisposable {
  readonly url: string
  readonly schema: string
  /** For people. */
  readonly version: string
  readonly isEmbedded: boolean
  query<Row extends pg.QueryResultRow>(sql: string, values?: unknown[]): Promise<Row[]>
}

export async function openDatabase(): Promise<Database> {
  const url = process.env.DATABASE_URL
  const server = url ? undefined : await startPostgres()
  try {
    return await prepare(server?.url ?? url ?? '', server)
  } catch (error) {
    await server?.[Symbol.asyncDispose]()
    throw error
  }
}

async function prepare(url: string, server: AsyncDisposable | undefined): Promise<Database> {
  const schema = `pgmembership_demo_${randomBytes(4).toString('hex')}`
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 10_000 })
  // A broken connection shows as an error of the next query.
  client.on('error', () => undefined)
  await client.connect()

  const close = async (): Promise<void> => {
    try {
      if (server === undefined) await client.query(`drop schema if exists ${schema} cascade`)
    } finally {
      await client.end()
      await server?.[Symbol.asyncDispose]()
    }
  }

  try {
    // Makes tables, triggers, functions and views, in one schema. A second call finds nothing to do.
    await migrate({ connection: url, schema })
    // So that the audit's queries at the end need no schema before their names.
    await client.query(`set search_path = ${schema}`)
    const { rows } = await client.query<{ server_version: string }>('show server_version')
    return {
      url,
      schema,
      version: rows[0]?.server_version.split(' ')[0] ?? '',
      isEmbedded: server !== undefined,
      query: async <Row extends pg.QueryResultRow>(sql: string, values: unknown[] = []) =>
        (await client.query<Row>(sql, values)).rows,
      [Symbol.asyncDispose]: close,
    }
  } catch (error) {
    await close()
    throw error
  }
}
