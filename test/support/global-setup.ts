import type { TestProject } from 'vitest/node'
import { startPostgres } from './postgres-server.js'

declare module 'vitest' {
  interface ProvidedContext {
    databaseUrl: string
  }
}

/** One PostgreSQL for the whole run: that of DATABASE_URL, else one of our own. */
export default async function globalSetup(project: TestProject): Promise<(() => Promise<void>) | undefined> {
  if (process.env.DATABASE_URL) {
    project.provide('databaseUrl', process.env.DATABASE_URL)
    return undefined
  }
  const server = await startPostgres({ fsync: false, settings: { max_connections: '300' } })
  project.provide('databaseUrl', server.url)
  return () => server[Symbol.asyncDispose]()
}
