/** One connection for one command. Where it only reads, a standby is good enough. */
import pg from 'pg'
import { within } from '../kit/waiting.js'
import { clientConfig } from '../postgres/connection/client.js'
import { begin } from '../postgres/connection/settings.js'
import { permanentError } from '../postgres/errors.js'
import { schemaName } from '../postgres/options.js'
import { type Query, queryOf } from '../postgres/query.js'
import { checkPlace, PLACE_QUESTION, placeOf } from '../postgres/schema/ownership.js'
import { checkSchemaVersion, type FoundVersion, VERSION_QUESTION } from '../postgres/schema/version.js'
import { type Arguments, UsageError } from './arguments.js'
import { inOneLine } from './visible.js'

const CONNECT_TIMEOUT_MS = 10_000
const CLOSE_TIMEOUT_MS = 2_000
/** Of a command: a lock of somebody else's is waited for as long as the statement may run. */
export const BOUNDS = { statementTimeoutMs: 60_000, lockTimeoutMs: 0 }

export function connectionUrl(args: Arguments): string {
  const url = args.text('connection') ?? args.surroundings.env.DATABASE_URL
  if (!url) throw new UsageError('no database: give --connection URL, or set DATABASE_URL')
  return url
}

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

/** As `reading`, whatever schema is there, unless it is one that must not be asked. */
export function connected<T>(
  args: Arguments,
  ask: (query: Query) => Promise<T>,
  access: 'read only' | 'read write' = 'read only',
): Promise<T> {
  return opened(args, async (client, query) => {
    await client.query(begin(access, BOUNDS))
    const schema = schemaName(args.text('schema'))
    const place = placeOf((await query<{ place: string }>(PLACE_QUESTION, [schema]))[0])
    if (place !== undefined) checkPlace(place, schema, 'ask')
    return ask(query)
  })
}

/** Without a transaction. */
export async function opened<T>(
  args: Arguments,
  use: (client: pg.Client, query: Query) => Promise<T>,
): Promise<T> {
  const schema = schemaName(args.text('schema'))
  const socket = await clientConfig({
    connection: connectionUrl(args),
    applicationName: 'pg-membership cli',
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
  })
  const client = new pg.Client(socket.config)
  client.on('error', () => undefined)
  try {
    await within(CONNECT_TIMEOUT_MS, client.connect(), 'connecting')
    return await use(client, queryOf(client, schema))
  } catch (error) {
    throw permanentError(error) ?? error
  } finally {
    await within(CLOSE_TIMEOUT_MS, client.end(), 'closing').catch(() => undefined)
    socket.destroy()
  }
}

/** What is installed in the schema, whatever it is; undefined: nothing. */
export async function installed(query: Query, schema: string): Promise<FoundVersion | undefined> {
  const [there] = await query(
    `select from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where n.nspname = $1 and p.proname = 'schema_version'`,
    [schema],
  )
  const [found] = there ? await query<FoundVersion>(VERSION_QUESTION, []) : []
  return found
}

/** A message for a name that no cluster has: perhaps it was mistyped. Empty if the cluster exists. */
export async function noSuchCluster(query: Query, cluster: string | undefined): Promise<string> {
  const clusters = await query<{ name: string }>(
    'select name from $$.clusters order by name is distinct from $1, name limit 20',
    [cluster ?? null],
  )
  if (clusters.length === 0) return 'There has never been a member here.'
  if (cluster === undefined || clusters[0]?.name === cluster) return ''
  return `There has never been a cluster ${JSON.stringify(cluster)}. There are: ${clusters.map(({ name }) => inOneLine(name)).join(', ')}`
}
