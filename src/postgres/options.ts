/** What only a cluster in PostgreSQL is given. */
import { refuse, requireText } from '../engine/options.js'

/**
 * The part of node-postgres's client configuration that applies here, described structurally. Other fields
 * that pg or its pool knows are ignored; what nobody knows is refused, and so are `stream` and `replication`.
 * Where a field is left out, pg takes it from the environment (`PGHOST`, `PGPORT`, …), or its own default.
 */
export interface ConnectionConfig {
  /** A PostgreSQL URL. What it says wins over the other fields. */
  readonly connectionString?: string
  /** A host name, an address, or the directory of a Unix socket. */
  readonly host?: string
  /** A TCP port. Default 5432, unless the environment names another. */
  readonly port?: number
  /** The name of the database. */
  readonly database?: string
  /** The role to connect as. */
  readonly user?: string
  /** The role's password, or a function that is asked for it before every connect. */
  readonly password?: string | (() => string | Promise<string>)
  /** true, or the options of Node's `tls.connect`. Default: no TLS, unless the URL or the environment asks for it. */
  readonly ssl?: boolean | object
  /** `sslnegotiation`, `options`, `enableChannelBinding` and `scramMaxIterations` go to pg as they are. */
  readonly [option: string]: unknown
}

/** A URL, a configuration, or a function that is asked before every connect (to find the primary, to renew a token). */
export type Connection = string | ConnectionConfig | (() => Promise<string | ConnectionConfig>)

/** Connections that several clusters of one process share; the last of them to close closes it. Opaque. */
// The contract's shape, to the letter.
// eslint-disable-next-line @typescript-eslint/consistent-indexed-object-style
export interface Connections {
  readonly [connections: symbol]: true
}

const MAX_SCHEMA_BYTES = 63

/** A name that PostgreSQL takes for a schema, when quoted. Longer ones it would cut silently. */
export function schemaName(schema: unknown = 'pgmembership'): string {
  requireText('schema', schema, MAX_SCHEMA_BYTES)
  // In a search_path, "$user" is not a name but whoever asks.
  if (/^(pg_|information_schema$|\$user$)/.test(schema)) {
    refuse(
      'schema',
      schema,
      "not be a name that PostgreSQL reserves: 'pg_…', 'information_schema' or '$user'",
    )
  }
  return schema
}
