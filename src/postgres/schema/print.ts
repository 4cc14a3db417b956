/** The migrations as SQL to run elsewhere, with the record that Kysely's Migrator would leave. */
import { checkOptions, refuse } from '../../engine/options.js'
import { quoteIdentifier } from '../identifier.js'
import { schemaName } from '../options.js'
import { beginningText, type Direction, type MigrationFile, migrationFiles, migrationText } from './files.js'

/** Options of `migrationSql`. */
export interface MigrationSqlOptions {
  /** Default 'pgmembership'. */
  readonly schema?: string
  /** The version that is there: by default 0 (nothing) going up, the newest going down. */
  readonly from?: number
  /** The version wanted: by default the newest going up, 0 (nothing) going down. */
  readonly to?: number
  /** 'down' takes the schema back. Default 'up'. */
  readonly direction?: Direction
}

export const RECORD_TABLE = 'pgmembership_migration'
export const LOCK_TABLE = 'pgmembership_migration_lock'

/**
 * The SQL of the same migrations, for teams with a migration tool of their own; leaves the same record
 * behind, so that `migrate()` afterwards finds nothing to do. Run it in one transaction. Connects to nothing.
 *
 * @param options - `schema` (default 'pgmembership'); `direction` ('up' by default, or 'down'); `from`, the version
 * that is there (by default 0 going up, the newest going down); `to`, the version wanted (by default the newest
 * going up, 0 going down).
 * @throws OptionError for a bad option.
 */
export function migrationSql(options: MigrationSqlOptions = {}): string {
  checkOptions('migrationSql', options, ['schema', 'from', 'to', 'direction'])
  const schema = schemaName(options.schema)
  const { direction = 'up' } = options
  if (!['up', 'down'].includes(direction)) refuse('direction', direction, "be 'up' or 'down'")
  const files = migrationFiles()
  const newest = files.at(-1)?.version ?? 0
  const from = version('from', options.from ?? (direction === 'up' ? 0 : newest), newest)
  const to = version('to', options.to ?? (direction === 'up' ? newest : 0), newest)
  if (direction === 'up' ? from > to : from < to) {
    refuse(
      'to',
      to,
      `not be ${direction === 'up' ? 'below' : 'above'} 'from' (${String(from)}) going ${direction}`,
    )
  }
  const parts = direction === 'up' ? up(schema, files, from, to) : down(schema, files, from, to)
  return [title(schema, from, to), ...parts].join('\n')
}

function up(schema: string, files: readonly MigrationFile[], from: number, to: number): string[] {
  if (from === to) return []
  const record = recordTable(schema)
  return [
    beginningText(schema),
    recordTables(schema),
    // Files that were run by hand have left no record.
    ...files.filter((file) => file.version <= from).map((file) => recorded(record, file)),
    ...files
      .filter((file) => file.version > from && file.version <= to)
      .flatMap((file) => [migrationText(file, 'up', schema), recorded(record, file)]),
  ]
}

function down(schema: string, files: readonly MigrationFile[], from: number, to: number): string[] {
  const undone = files.filter((file) => file.version <= from && file.version > to).reverse()
  const record = recordTable(schema)
  return [
    ...undone.flatMap((file) => [
      migrationText(file, 'down', schema),
      `delete from ${record} where "name" operator(pg_catalog.=) '${file.name}';\n`,
    ]),
    ...(to === 0 && undone.length > 0
      ? [`drop table ${record};`, `drop table ${named(schema, LOCK_TABLE)};\n`]
      : []),
  ]
}

/**
 * Makes the tables of the record as Kysely's Migrator would, if they are not there. They are the owner's alone: what
 * default privileges gave to others is taken back. Nobody else can lock the second one, which `migrate` does.
 */
export function recordTables(schema: string): string {
  return [ownTable(schema, RECORD_TABLE), lockTable(schema)].join('\n')
}

export function lockTable(schema: string): string {
  const insert = `insert into ${named(schema, LOCK_TABLE)} (id, is_locked) values ('migration_lock', 0) on conflict do nothing;\n`
  return [ownTable(schema, LOCK_TABLE), insert].join('\n')
}

const COLUMNS = {
  [RECORD_TABLE]: '"name" varchar(255) not null primary key, "timestamp" varchar(255) not null',
  [LOCK_TABLE]: '"id" varchar(255) not null primary key, "is_locked" integer default 0 not null',
} as const

function ownTable(schema: string, table: keyof typeof COLUMNS): string {
  return `create table if not exists ${named(schema, table)} (${COLUMNS[table]});
set pgmembership.schema = ${quoteIdentifier(schema)};
${ownersAlone(table)}
reset pgmembership.schema;`
}

function ownersAlone(table: string): string {
  return `do $record$
declare
  path constant pg_catalog.text := pg_catalog.current_setting('search_path');
  given pg_catalog.record;
begin
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  for given in
    select distinct c.oid::regclass as name, case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as grantee
    from pg_class c join pg_namespace n on n.oid = c.relnamespace cross join aclexplode(c.relacl) a
    where n.nspname = current_setting('pgmembership.schema') and c.relname = '${table}' and a.grantee <> c.relowner
  loop
    execute format('revoke all on %s from %s cascade', given.name, given.grantee);
  end loop;
  perform set_config('search_path', path, true);
end
$record$;`
}

function title(schema: string, from: number, to: number): string {
  // JSON leaves no line break in the name, which would end the comment.
  return [
    `-- pg-membership: schema ${JSON.stringify(schema)} from version ${String(from)} to ${String(to)}.`,
    '-- There is no begin and no commit in here: run it in one transaction.\n',
  ].join('\n')
}

function recordTable(schema: string): string {
  return named(schema, RECORD_TABLE)
}

function named(schema: string, table: string): string {
  return `${quoteIdentifier(schema)}.${quoteIdentifier(table)}`
}

function recorded(record: string, { name }: MigrationFile): string {
  const now = `pg_catalog.to_char(pg_catalog.clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`
  return `insert into ${record} ("name", "timestamp") values ('${name}', ${now}) on conflict do nothing;\n`
}

function version(option: string, value: unknown, newest: number): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= newest) return value
  return refuse(option, value, `be an integer from 0 to ${String(newest)}`)
}
