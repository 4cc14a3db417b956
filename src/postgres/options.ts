/** Options that only a cluster in PostgreSQL has. */
import { refuse, requireText } from '../engine/options.js'

/**
 * The part of node-postgres's client configuration that applies here, described structurally. Other fields
 * of pg or its pool are ignored. Any other name is refused, and so are `stream` and `replication`.
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

/** Connections that clusters of one process share. They close when the last of these clusters closes. Opaque. */
// Exactly the shape in the published contract.
// eslint-disable-next-line @typescript-eslint/consistent-indexed-object-style
export interface Connections {
  readonly [connections: symbol]: true
}

const MAX_SCHEMA_BYTES = 63

/** Returns the name if PostgreSQL takes it for a schema, quoted. It would cut a longer one silently. */
export function schemaName(schema: unknown = 'pgmembership'): string {
  requireText('schema', schema, MAX_SCHEMA_BYTES)
  // In a search_path, "$user" stands for the current role.
  if (/^(pg_|information_schema$|\$user$)/.test(schema)) {
    refuse(
      'schema',
      schema,
      "not be a name that PostgreSQL reserves: 'pg_…', 'information_schema' or '$user'",
    )
  }
  return schema
}
