/** The migrations: migrations/NNNN_name.up.sql and .down.sql, which psql runs as they stand. */
import { readdirSync, readFileSync } from 'node:fs'
import { quoteIdentifier } from '../identifier.js'

export interface MigrationFile {
  readonly version: number
  /** The name in the record: the file's name without its ending. */
  readonly name: string
  readonly directory: URL
}

export type Direction = 'up' | 'down'

/** Beside src/ in the repository, beside dist/ in the package. */
const DIRECTORY = new URL('../../../migrations/', import.meta.url)

/** Oldest first. */
export function migrationFiles(directory = DIRECTORY): readonly MigrationFile[] {
  return readdirSync(directory)
    .filter((file) => /^\d{4}_\w+\.up\.sql$/.test(file))
    .map((file) => ({ name: file.replace('.up.sql', ''), version: Number(file.slice(0, 4)), directory }))
    .sort((a, b) => a.version - b.version)
}

/** The beginning of the first file: makes the schema, and refuses one that is another role's or open to others. */
const BEGINNING = /^set pgmembership\.schema = .*;\ndo \$owner\$[\s\S]*?^\$owner\$;\nreset .*;\n\n?/m

/** It comes before all other statements, also those that make the tables of the record. */
export function beginningText(schema: string): string {
  const [first] = migrationFiles()
  const text = readFileSync(new URL(`${first?.name ?? ''}.up.sql`, DIRECTORY), 'utf8')
  return withNames(BEGINNING.exec(text)?.[0] ?? '', { schema })
}

/** The text of the file for this schema, without its beginning. */
export function migrationText(
  { name, directory }: MigrationFile,
  direction: Direction,
  schema: string,
): string {
  const text = readFileSync(new URL(`${name}.${direction}.sql`, directory), 'utf8')
  return withNames(text.replace(BEGINNING, ''), { schema })
}

/** What a role needs, as SQL for the owner of the schema to run. */
export function grantsText(role: 'member' | 'operator' | 'reader', schema: string, grantee: string): string {
  const text = readFileSync(new URL(`grants/${role}.sql`, DIRECTORY), 'utf8')
  return withNames(text, { schema, role: grantee })
}

/** Puts names in as psql does with `-v`. Like psql, not into comments, which a line break in a name would end. */
function withNames(text: string, names: Readonly<Record<string, string>>): string {
  return text.replace(/^[ \t]*--.*$|:"(\w+)"/gm, (found, name?: string) => {
    const value = name === undefined ? undefined : names[name]
    return value === undefined ? found : quoteIdentifier(value)
  })
}
