/** Settings that an administrator may give a role or a database, and that nothing here may depend on. */
import pg from 'pg'
import type { Chance } from './chance.js'
import type { AdminClient } from './database.js'

export interface Setting {
  readonly name: string
  readonly value: string
}

/** Of these, a server takes part only in what it knows: some are younger than PostgreSQL 14, some are gone. */
const VALUES: Readonly<Record<string, readonly string[]>> = {
  // How values are read and written.
  DateStyle: ['SQL, DMY', 'Postgres, MDY', 'German', 'ISO, YMD'],
  IntervalStyle: ['postgres_verbose', 'sql_standard', 'iso_8601'],
  TimeZone: ['Asia/Kolkata', 'America/St_Johns', 'Pacific/Kiritimati', '<-03:30>+3:30'],
  timezone_abbreviations: ['Australia', 'India'],
  bytea_output: ['escape'],
  extra_float_digits: ['-15', '3'],
  client_encoding: ['LATIN1', 'SQL_ASCII'],
  xmloption: ['document'],
  xmlbinary: ['hex'],
  lc_messages: ['POSIX', 'C.UTF-8', 'de_DE.UTF-8'],
  lc_numeric: ['POSIX', 'C.UTF-8', 'de_DE.UTF-8'],
  lc_monetary: ['POSIX', 'C.UTF-8', 'de_DE.UTF-8'],
  lc_time: ['POSIX', 'C.UTF-8', 'de_DE.UTF-8'],
  client_min_messages: ['debug5', 'error'],
  // How SQL is read.
  standard_conforming_strings: ['off'],
  escape_string_warning: ['off'],
  backslash_quote: ['off', 'on'],
  array_nulls: ['off'],
  transform_null_equals: ['on'],
  quote_all_identifiers: ['on'],
  check_function_bodies: ['off'],
  search_path: ['', 'decoys', 'decoys, public', 'pg_catalog, decoys', 'nowhere', '"$user"'],
  // What transactions are, and how long things may take.
  default_transaction_isolation: ['serializable', 'repeatable read', 'read uncommitted'],
  default_transaction_read_only: ['on'],
  default_transaction_deferrable: ['on'],
  statement_timeout: ['20s'],
  transaction_timeout: ['20s'],
  lock_timeout: ['1ms', '10s'],
  idle_in_transaction_session_timeout: ['5s'],
  idle_session_timeout: ['1s', '10s'],
  deadlock_timeout: ['10ms'],
  client_connection_check_interval: ['0', '10ms'],
  tcp_keepalives_idle: ['1'],
  tcp_user_timeout: ['10s'],
  synchronous_commit: ['off', 'local', 'remote_write', 'remote_apply'],
  // What is seen, by whom.
  row_security: ['off'],
  stats_fetch_consistency: ['none', 'snapshot'],
  track_activities: ['off'],
  track_counts: ['off'],
  track_functions: ['all'],
  // How queries are planned and run.
  plan_cache_mode: ['force_generic_plan', 'force_custom_plan'],
  constraint_exclusion: ['on', 'off'],
  from_collapse_limit: ['1'],
  join_collapse_limit: ['1'],
  geqo_threshold: ['2'],
  cursor_tuple_fraction: ['0'],
  jit: ['on', 'off'],
  jit_above_cost: ['0'],
  force_parallel_mode: ['on', 'regress'],
  debug_parallel_query: ['on', 'regress'],
  parallel_setup_cost: ['0'],
  parallel_tuple_cost: ['0'],
  min_parallel_table_scan_size: ['0'],
  max_parallel_workers_per_gather: ['0', '4'],
  work_mem: ['64kB'],
  temp_buffers: ['800kB'],
  effective_io_concurrency: ['0'],
  enable_bitmapscan: ['off'],
  enable_gathermerge: ['off'],
  enable_hashagg: ['off'],
  enable_hashjoin: ['off'],
  enable_incremental_sort: ['off'],
  enable_indexonlyscan: ['off'],
  enable_indexscan: ['off'],
  enable_material: ['off'],
  enable_memoize: ['off'],
  enable_mergejoin: ['off'],
  enable_nestloop: ['off'],
  enable_parallel_append: ['off'],
  enable_seqscan: ['off'],
  enable_sort: ['off'],
  enable_tidscan: ['off'],
  // What is stored, and how.
  default_toast_compression: ['lz4', 'pglz'],
  default_statistics_target: ['1'],
  default_table_access_method: ['heap'],
  default_tablespace: ['', 'pg_default'],
  lo_compat_privileges: ['on'],
}

/** All that this server takes. */
export async function possibleSettings(admin: AdminClient): Promise<readonly Setting[]> {
  const possible: Setting[] = []
  for (const [name, values] of Object.entries(VALUES)) {
    for (const value of values) {
      await admin.query('begin')
      try {
        await admin.query(setting({ name, value }))
        possible.push({ name, value })
      } catch (error) {
        if (!/^(42704|22023|0A000)$/.test((error as { code?: string }).code ?? '')) throw error
      }
      await admin.query('rollback')
    }
  }
  return possible
}

/** One half of the names, each with a value at random. */
export function drawSettings(chance: Chance, possible: readonly Setting[]): readonly Setting[] {
  return Object.keys(VALUES).flatMap((name) => {
    const values = possible.filter((setting) => setting.name === name)
    return values.length > 0 && chance.below(2) === 0 ? [chance.pick(values)] : []
  })
}

/** SET; with `alter role … ` before it, for all sessions of a role. */
export function setting({ name, value }: Setting): string {
  // A path is a list of names, not a name.
  const to = name === 'search_path' && value !== '' ? value : pg.escapeLiteral(value)
  return `set ${name} = ${to}`
}

export function shown(settings: readonly Setting[]): string {
  return settings.map(({ name, value }) => `${name}=${value}`).join('; ')
}
