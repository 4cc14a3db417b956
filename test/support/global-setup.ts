import pg from 'pg'
import type { TestProject } from 'vitest/node'
import { startPostgres } from './postgres-server.js'

declare module 'vitest' {
  interface ProvidedContext {
    databaseUrl: string
  }
}

/** One PostgreSQL for the whole run: that of DATABASE_URL, else one of our own. */
export default async function globalSetup(project: TestProject): Promise<() => Promise<void>> {
  const given = process.env.DATABASE_URL
  const server = given
    ? undefined
    : await startPostgres({ fsync: false, settings: { max_connections: '300' } })
  const url = server?.url ?? given ?? ''
  // scripts/matrix.js reads this line.
  project.vitest.logger.log(`${await versionOf(url)}, Node ${process.version}`)
  project.provide('databaseUrl', url)
  return async () => server?.[Symbol.asyncDispose]()
}

/** As in 'PostgreSQL 18.4'. */
async function versionOf(connectionString: string): Promise<string> {
  const client = new pg.Client({ connectionString })
  await client.connect()
  try {
    const { rows } = await client.query<{ version: string }>(
      `select split_part(version(), ' on ', 1) as version`,
    )
    return rows[0]?.version ?? ''
  } finally {
    await client.end()
  }
}
