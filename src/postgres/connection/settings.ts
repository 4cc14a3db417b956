/** PostgreSQL's own names. The temporary schema of the session would come before them if it were not listed. */
export const OWN_NAMES = 'pg_catalog, pg_temp'

/**
 * The settings of a role or a database change what a statement means, and how its answer is written. In a transaction
 * that begins with these settings, both are the same everywhere.
 */
const PINNED: Readonly<Record<string, string>> = {
  // First: from here on a name without a schema is PostgreSQL's own.
  search_path: OWN_NAMES,
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
  // The policies of the schema let every role read that has the grant; 'off' would refuse that.
  row_security: 'on',
  default_table_access_method: 'heap',
  idle_in_transaction_session_timeout: `'1min'`,
}

export interface Bounds {
  /** 0: none. */
  readonly statementTimeoutMs: number
  readonly lockTimeoutMs: number
}

/** Begins a transaction, in one message: nothing in it waits, and afterwards no other settings count. */
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
    // Only PostgreSQL 17 and newer have this setting.
    `select set_config(name, '0', true) from pg_settings where name = 'transaction_timeout'`,
  ].join('; ')
}
