/**
 * Settings of a role or a database reach into every statement: into what it means, and into how its answer
 * reads. A transaction that begins with these means and reads the same everywhere.
 */
const PINNED: Readonly<Record<string, string>> = {
  // First: from here on a name without a schema is PostgreSQL's own.
  search_path: 'pg_catalog, pg_temp',
  client_encoding: `'UTF8'`,
  standard_conforming_strings: 'on',
  backslash_quote: 'safe_encoding',
  array_nulls: 'on',
  transform_null_equals: 'off',
  datestyle: `'ISO, YMD'`,
  intervalstyle: 'postgres',
  timezone: `'UTC'`,
  bytea_output: 'hex',
  extra_float_digits: '1',
  quote_all_identifiers: 'off',
  // The schema's own policies let everybody read who is granted to; 'off' would refuse that.
  row_security: 'on',
  default_table_access_method: 'heap',
  idle_in_transaction_session_timeout: `'1min'`,
}

export interface Bounds {
  /** 0: none. */
  readonly statementTimeoutMs: number
  readonly lockTimeoutMs: number
}

/** The beginning of a transaction, in one message: nothing in it waits, and no setting of others counts after it. */
export function begin(
  access: 'read only' | 'read write',
  { statementTimeoutMs, lockTimeoutMs }: Bounds,
): string {
  const settings = {
    ...PINNED,
    statement_timeout: String(statementTimeoutMs),
    lock_timeout: String(lockTimeoutMs),
  }
  return [
    `begin isolation level read committed ${access} not deferrable`,
    ...Object.entries(settings).map(([name, value]) => `set local ${name} = ${value}`),
    // Only PostgreSQL 17 and newer have it.
    `select set_config(name, '0', true) from pg_settings where name = 'transaction_timeout'`,
  ].join('; ')
}
