import pg from 'pg'
import type { TestProject } from 'vitest/node'
import { makeBundles } from './bundles.js'
import { initializeOnly, type PostgresOptions, startPostgres } from './postgres-server.js'

declare module 'vitest' {
  interface ProvidedContext {
    databaseUrl: string
  }
}

/** One PostgreSQL for the whole run: that of DATABASE_URL, else one of our own. */
export default async function globalSetup(project: TestProject): Promise<() => Promise<void>> {
  const given = process.env.DATABASE_URL
  const made = await initializeOnly()
  process.env.TEST_DATA_DIRECTORY = made.dataDirectory
  const end = given ? await provide(project, given) : await provideServer(project)
  return async () => {
    await end()
    await made[Symbol.asyncDispose]()
  }
}

/** A server of our own for all tests of a project. */
export async function provideServer(
  project: TestProject,
  binaries: Pick<PostgresOptions, 'binaries'> = {},
): Promise<() => Promise<void>> {
  const server = await startPostgres({ fsync: false, settings: { max_connections: '300' }, ...binaries })
  const end = await provide(project, server.url)
  return async () => {
    await end()
    await server[Symbol.asyncDispose]()
  }
}

async function provide(project: TestProject, url: string): Promise<() => Promise<void>> {
  // scripts/matrix.js reads the line of the project 'all'.
  project.vitest.logger.log(`${project.name}: ${await versionOf(url)}, Node ${process.version}`)
  project.provide('databaseUrl', url)
  const remove = await makeBundles()
  return async () => remove()
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
