/**
 * Brings the schema in the database to the version that this code knows.
 *
 * Everything happens in one transaction on one connection, and one such transaction at a time: any number of
 * processes may call it at once, a failure leaves nothing behind, and a pooler does no harm.
 * If there is nothing to do, nothing is locked or written, and the role only needs to be able to look.
 *
 * Whose schema it is comes first: nothing of it is executed before that is known (ownership.ts). And no stranger can
 * make the owner wait: the lock is on a table of the schema, which nobody but the owner may lock. Where there is no schema
 * yet, the one who makes it keeps the others waiting, and whoever may not become its owner is found out.
 */
import { Kysely, type MigrationProvider, Migrator, sql } from 'kysely'
import pg from 'pg'
import { ConnectionError, SchemaError } from '../../api/errors.js'
import { checkOptions } from '../../engine/options.js'
import { within } from '../../kit/waiting.js'
import { AS_WRITTEN, clientConfig } from '../connection/client.js'
import { connectionOption } from '../connection/config.js'
import { begin } from '../connection/settings.js'
import { errorCode, permanentError, schemaProblem } from '../errors.js'
import { quoteIdentifier } from '../identifier.js'
import { type Connection, schemaName } from '../options.js'
import { ClientAsPool, MigrationDialect } from './dialect.js'
import { beginningText, type MigrationFile, migrationFiles, migrationText } from './files.js'
import { checkPlace, type Place, PLACE_QUESTION, placeOf } from './ownership.js'
import { LOCK_TABLE, lockTable, RECORD_TABLE, recordTables } from './print.js'
import { checkSchemaVersion, type FoundVersion, SCHEMA_VERSION } from './version.js'
import { patiently } from './waiting.js'

/** Options of `migrate`. */
export interface MigrateOptions {
  /** To the primary; any role that may create the schema, or owns it. */
  readonly connection: Connection
  /** 1 to 63 bytes of UTF-8; not a name that PostgreSQL reserves. Default 'pgmembership'. */
  readonly schema?: string
}

const CONNECT_TIMEOUT_MS = 10_000
const CLOSE_TIMEOUT_MS = 2_000
/** Long enough to wait for another process that migrates, but not for one that is stuck for good. */
const BOUNDS = { statementTimeoutMs: 0, lockTimeoutMs: 300_000 }

/**
 * Brings the schema to this version of the library; safe from any number of processes at once. Returns
 * the names of the migrations run: none when there was nothing to do. Waits up to 10 s for the connection and up
 * to 5 min for another process that migrates.
 *
 * @throws OptionError for a bad option; SchemaError when the role may not do it, when another role owns the schema, may
 * create in it or has objects in it, when it has a version that this code cannot work with, or when an open transaction
 * of a stranger holds it up, who is named; ConnectionError for a standby, for PostgreSQL
 * before 14, and when connecting cannot succeed. Other errors are those of the database: nothing is tried again,
 * and nothing is left half done.
 */
export function migrate(options: MigrateOptions): Promise<string[]> {
  return migrateAs({ version: SCHEMA_VERSION }, options)
}

/** The newest migration that the code knows, and where its files are; by default those of this package. */
interface Code {
  readonly version: number
  readonly directory?: URL
}

/** @internal Migrates as code of another version would: for tests of how the schema evolves. */
export async function migrateAs(code: Code, options: MigrateOptions): Promise<string[]> {
  checkOptions('migrate', options, ['connection', 'schema'])
  const connection = connectionOption('connection', options.connection)
  const schema = schemaName(options.schema)
  const socket = await clientConfig({
    connection,
    applicationName: 'pg-membership migrate',
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
  })
  const client = new pg.Client({ ...socket.config, types: AS_WRITTEN })
  // A connection that breaks between two queries must find a listener.
  client.on('error', () => undefined)
  try {
    await within(CONNECT_TIMEOUT_MS, client.connect(), 'connecting').catch((error: unknown) => {
      throw permanentError(error) ?? error
    })
    const isNeeded = await inTransaction(client, 'read only', async () => {
      await refuseServer(client)
      const place = await placeIn(client, schema)
      // A role that could make the schema is not content with one that somebody else has made.
      if (place !== undefined) checkPlace(place, schema, place.mayInstall ? 'install' : 'ask')
      return needsWork(client, schema, code)
    })
    if (!isNeeded) return []
    return await inTransaction(client, 'read write', async () => {
      await patiently(client, socket.config, () => lock(client, schema))
      // Another process, of this or another version, may have done it meanwhile.
      return (await needsWork(client, schema, code)) ? runMigrator(client, schema, code) : []
    })
  } catch (error) {
    throw errorCode(error) === '42501' ? schemaProblem(error) : error
  } finally {
    await within(CLOSE_TIMEOUT_MS, client.end(), 'closing').catch(() => undefined)
    socket.destroy()
  }
}

async function refuseServer(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ standby: 't' | 'f'; version: string }>(
    `select pg_is_in_recovery() as standby, current_setting('server_version_num') as version`,
  )
  if (rows[0]?.standby === 't') {
    throw new ConnectionError(
      'Cannot migrate: this server is a standby, which takes no changes. Connect to the primary',
    )
  }
  if (Number(rows[0]?.version) < 140_000)
    throw new ConnectionError('Cannot migrate: PostgreSQL 14 or newer is needed')
}

async function inTransaction<T>(
  client: pg.Client,
  access: 'read only' | 'read write',
  run: () => Promise<T>,
): Promise<T> {
  await client.query(begin(access, BOUNDS))
  try {
    const result = await run()
    await client.query('commit')
    return result
  } catch (error) {
    await client.query('rollback').catch(() => undefined)
    throw error
  }
}

async function placeIn(client: pg.Client, schema: string): Promise<Place | undefined> {
  return placeOf((await client.query<{ place: string }>(PLACE_QUESTION, [schema])).rows[0])
}

/** Makes the schema if it is not there, and locks out others that migrate. */
async function lock(client: pg.Client, schema: string): Promise<void> {
  // Does not keep pg_dump out, nor is kept out by it.
  const locking = `lock table ${quoteIdentifier(schema)}.${quoteIdentifier(LOCK_TABLE)} in share row exclusive mode`
  for (;;) {
    const place = await placeIn(client, schema)
    if (place === undefined) {
      await isDone(client, beginningText(schema), THERE_ALREADY)
      continue
    }
    checkPlace(place, schema, 'install')
    if (await isDone(client, locking, ['42P01'])) return
    await isDone(client, lockTable(schema), THERE_ALREADY)
  }
}

/** Duplicate schema, or table; and how that is told when another transaction made it meanwhile. */
const THERE_ALREADY = ['42P06', '42P07', '23505']

/** false: it failed with one of these codes, and had no effect. */
async function isDone(client: pg.Client, text: string, excused: readonly string[]): Promise<boolean> {
  await client.query('savepoint attempt')
  try {
    await client.query(text)
    await client.query('release savepoint attempt')
    return true
  } catch (error) {
    if (!excused.includes(errorCode(error) ?? '')) throw error
    await client.query('rollback to savepoint attempt')
    return false
  }
}

async function needsWork(client: pg.Client, schema: string, { version }: Code): Promise<boolean> {
  const { found, recorded, foreign } = await inspect(client, schema)
  if (found !== undefined && found.version >= version) {
    checkSchemaVersion(found, version)
    // A file that was run by hand has left no record: write it. A newer version is not ours to record.
    return found.version === version && !recorded
  }
  if (found === undefined && foreign.length > 0) {
    const name = JSON.stringify(schema)
    throw new SchemaError(
      `Schema ${name} has objects that are not of pg-membership: ${foreign.join(', ')}. Choose another name`,
    )
  }
  return true
}

interface Inspection {
  readonly found: FoundVersion | undefined
  readonly recorded: boolean
  /** Descriptions of objects in the schema that are not ours: the first few. */
  readonly foreign: readonly string[]
}

async function inspect(client: pg.Client, schema: string): Promise<Inspection> {
  // One statement, one snapshot: a migration that commits meanwhile is seen whole or not at all.
  const { rows } = await client.query<{ installed: 't' | 'f'; recorded: 't' | 'f'; foreign: string }>(
    INSPECTION,
    [schema, [RECORD_TABLE, LOCK_TABLE]],
  )
  const [row] = rows
  if (row === undefined) return { found: undefined, recorded: false, foreign: [] }
  return {
    found: row.installed === 't' ? await versionOf(client, schema) : undefined,
    recorded: row.recorded === 't',
    foreign: JSON.parse(row.foreign) as string[],
  }
}

async function versionOf(client: pg.Client, schema: string): Promise<FoundVersion | undefined> {
  const text = `select version, compatible_from from ${quoteIdentifier(schema)}.schema_version()`
  const [row] = (await client.query<{ version: string; compatible_from: string }>(text)).rows
  return row && { version: Number(row.version), compatibleFrom: Number(row.compatible_from) }
}

const INSPECTION = `
  select
    exists (
      select from pg_proc p
      where p.pronamespace = n.oid and p.proname = 'schema_version' and p.pronargs = 0
        and p.proargnames = '{version,compatible_from}'
    ) as installed,
    exists (select from pg_class c where c.relnamespace = n.oid and c.relname = ($2::text[])[1]) as recorded,
    to_json(case when n.oid < 16384 and n.nspname <> 'public' then '{"what belongs to PostgreSQL"}' else array(
      select pg_describe_object(d.classid, d.objid, d.objsubid) from pg_depend d
      where d.refclassid = 'pg_namespace'::regclass and d.refobjid = n.oid and d.deptype = 'n'
        and not (d.classid = 'pg_class'::regclass and d.objid in (
          select c.oid from pg_class c where c.relnamespace = n.oid and c.relname = any ($2::text[])
        ))
      order by 1 limit 3
    ) end) as foreign
  from pg_namespace n where n.nspname = $1`

async function runMigrator(client: pg.Client, schema: string, code: Code): Promise<string[]> {
  const { found, recorded } = await inspect(client, schema)
  await client.query(recordTables(schema))
  const present = found?.version ?? 0
  const files = migrationFiles(code.directory).filter(({ version }) => version <= code.version)
  if (recorded) {
    // A .down.sql that was run by hand has not deleted its record, and Kysely would believe the record.
    const undone = files.filter(({ version }) => version > present).map(({ name }) => name)
    const record = `${quoteIdentifier(schema)}.${quoteIdentifier(RECORD_TABLE)}`
    await client.query(`delete from ${record} where name = any ($1)`, [undone])
  }
  const pool = new ClientAsPool(client)
  const db = new Kysely<unknown>({ dialect: new MigrationDialect(pool, schema) })
  const names: string[] = []
  const migrator = new Migrator({
    db,
    provider: provider(files, schema, present, names),
    migrationTableSchema: schema,
    migrationTableName: RECORD_TABLE,
    migrationLockTableName: LOCK_TABLE,
    // Our own transaction spans everything, Kysely's own tables included.
    disableTransactions: true,
  })
  const { error } = await migrator.migrateToLatest()
  // After an error Kysely sends more queries, which fail in the aborted transaction: the first error tells more.
  if (error !== undefined) throw pool.firstError ?? new Error('The migration failed', { cause: error })
  return names
}

/** A migration that was run by hand is recorded, but not run again. */
function provider(
  files: readonly MigrationFile[],
  schema: string,
  present: number,
  names: string[],
): MigrationProvider {
  const migrations = files.map((file) => {
    const up = async (db: Kysely<unknown>): Promise<void> => {
      if (file.version <= present) return
      await sql.raw(migrationText(file, 'up', schema)).execute(db)
      names.push(file.name)
    }
    return [file.name, { up }] as const
  })
  return { getMigrations: () => Promise.resolve(Object.fromEntries(migrations)) }
}
