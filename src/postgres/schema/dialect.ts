/** Kysely's Migrator over one connection, inside a transaction that somebody else began and will end. */
import type {
  DatabaseIntrospector,
  DatabaseMetadata,
  DialectAdapter,
  Kysely,
  PostgresPool,
  PostgresPoolClient,
  SchemaMetadata,
  TableMetadata,
} from 'kysely'
import { PostgresAdapter, PostgresDialect, sql } from 'kysely'
import type pg from 'pg'

/** Lets Kysely use a connection that is not its own. */
export class ClientAsPool implements PostgresPool {
  readonly #client: pg.Client
  firstError: Error | undefined

  constructor(client: pg.Client) {
    this.#client = client
  }

  connect(): Promise<PostgresPoolClient> {
    const query = async (text: string, values: readonly unknown[]): Promise<unknown> => {
      try {
        return await this.#client.query(text, [...values])
      } catch (error) {
        this.firstError ??= error as Error
        throw error
      }
    }
    return Promise.resolve({ query, release: () => undefined } as unknown as PostgresPoolClient)
  }

  end(): Promise<void> {
    return Promise.resolve()
  }
}

export class MigrationDialect extends PostgresDialect {
  readonly #schema: string

  constructor(pool: PostgresPool, schema: string) {
    super({ pool })
    this.#schema = schema
  }

  override createAdapter(): DialectAdapter {
    return new LockedAlready()
  }

  override createIntrospector(db: Kysely<unknown>): DatabaseIntrospector {
    return new SchemaIntrospector(db, this.#schema)
  }
}

/** Kysely's own introspector looks at every table of the database, and fails when one is dropped meanwhile. */
class SchemaIntrospector implements DatabaseIntrospector {
  readonly #db: Kysely<unknown>
  readonly #schema: string

  constructor(db: Kysely<unknown>, schema: string) {
    this.#db = db
    this.#schema = schema
  }

  async getSchemas(): Promise<SchemaMetadata[]> {
    const { rows } = await sql<SchemaMetadata>`
      select nspname as name from pg_namespace where nspname = ${this.#schema}`.execute(this.#db)
    return rows
  }

  async getTables(): Promise<TableMetadata[]> {
    const { rows } = await sql<{ name: string }>`
      select c.relname as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where n.nspname = ${this.#schema} and c.relkind = 'r'`.execute(this.#db)
    return rows.map(({ name }) => ({ name, schema: this.#schema, isView: false, columns: [] }))
  }

  async getMetadata(): Promise<DatabaseMetadata> {
    return { tables: await this.getTables() }
  }
}

/** Takes no lock: migrate.ts has one. Kysely's is one for all migrations of a database, and a pooler would leak it. */
class LockedAlready extends PostgresAdapter {
  override acquireMigrationLock(): Promise<void> {
    return Promise.resolve()
  }

  override releaseMigrationLock(): Promise<void> {
    return Promise.resolve()
  }
}
