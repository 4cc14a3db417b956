/** One connection for one command, which only reads: a standby is good enough. */
import pg from 'pg'
import { within } from '../kit/waiting.js'
import { clientConfig } from '../postgres/connection/client.js'
import { begin } from '../postgres/connection/settings.js'
import { permanentError } from '../postgres/errors.js'
import { quoteIdentifier } from '../postgres/identifier.js'
import { schemaName } from '../postgres/options.js'
import { checkSchemaVersion, type FoundVersion, VERSION_QUESTION } from '../postgres/schema/version.js'
import { type Arguments, UsageError } from './arguments.js'
import { inOneLine } from './visible.js'

const CONNECT_TIMEOUT_MS = 10_000
const CLOSE_TIMEOUT_MS = 2_000
const STATEMENT_TIMEOUT_MS = 60_000

export function connectionUrl(args: Arguments): string {
  const url = args.text('connection') ?? args.surroundings.env.DATABASE_URL
  if (!url) throw new UsageError('no database: give --connection URL, or set DATABASE_URL')
  return url
}

/** `$$.` in the text stands for the schema. */
export type Query = <T extends object>(text: string, values: readonly unknown[]) => Promise<T[]>

/** Runs in one transaction that only reads, in a schema of a version that this code knows. */
export function reading<T>(args: Arguments, read: (query: Query) => Promise<T>): Promise<T> {
  return connected(args, async (query) => {
    const [found] = await query<FoundVersion>(VERSION_QUESTION, [])
    checkSchemaVersion(found)
    return read(query)
  })
}

/** Runs in one transaction that may write, and commits it. */
export function changing<T>(args: Arguments, change: (query: Query) => Promise<T>): Promise<T> {
  return connected(
    args,
    async (query) => {
      const result = await change(query)
      await query('commit', [])
      return result
    },
    'read write',
  )
}

/** As `reading`, whatever schema is there. `backendPid` is the process of the server that the client was told. */
export async function connected<T>(
  args: Arguments,
  read: (query: Query, backendPid: number | undefined) => Promise<T>,
  access: 'read only' | 'read write' = 'read only',
): Promise<T> {
  const schema = `${quoteIdentifier(schemaName(args.text('schema')))}.`
  const socket = await clientConfig({
    connection: connectionUrl(args),
    applicationName: 'pg-membership cli',
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
  })
  const client = new pg.Client(socket.config)
  client.on('error', () => undefined)
  const query: Query = async <T extends object>(text: string, values: readonly unknown[]) =>
    (
      await client.query<T>(
        text.replaceAll('$$.', () => schema),
        [...values],
      )
    ).rows
  try {
    await within(CONNECT_TIMEOUT_MS, client.connect(), 'connecting')
    await client.query(begin(access, { statementTimeoutMs: STATEMENT_TIMEOUT_MS, lockTimeoutMs: 0 }))
    return await read(query, (client as { processID?: number }).processID)
  } catch (error) {
    throw permanentError(error) ?? error
  } finally {
    await within(CLOSE_TIMEOUT_MS, client.end(), 'closing').catch(() => undefined)
    socket.destroy()
  }
}

/** A message for a name that no cluster has: perhaps it was mistyped. Empty if the cluster exists. */
export async function noSuchCluster(query: Query, cluster: string | undefined): Promise<string> {
  const clusters = await query<{ name: string }>('select name from $$.clusters order by name limit 20', [])
  if (clusters.length === 0) return 'There has never been a member here.'
  if (cluster === undefined || clusters.some(({ name }) => name === cluster)) return ''
  return `There has never been a cluster ${JSON.stringify(cluster)}. There are: ${clusters.map(({ name }) => inOneLine(name)).join(', ')}`
}
