/** The schema in the database: which version this code needs, and what it means when it is not there. */
import { SchemaError } from './errors.js'

/** The newest migration that this code knows. */
export const SCHEMA_VERSION = 1

/** What the database's own schema_version() says. */
export interface FoundVersion {
  readonly version: number
  /** The oldest code that may work with it. */
  readonly compatibleFrom: number
}

export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}

/** Throws unless code that knows this version can work with what was found. */
export function checkSchemaVersion(found: FoundVersion | undefined, newest = SCHEMA_VERSION): void {
  const known = `this pg-membership knows version ${String(newest)}`
  if (found === undefined) throw new SchemaError('The schema is not there. Run: npx pg-membership migrate')
  if (found.version < newest) {
    const message = `The schema has version ${String(found.version)}; ${known}. Run: npx pg-membership migrate`
    throw new SchemaError(message)
  }
  if (found.compatibleFrom > newest) {
    const range = `version ${String(found.version)}, and needs code that knows ${String(found.compatibleFrom)}`
    throw new SchemaError(`The schema has ${range}; ${known}. Upgrade the package pg-membership`)
  }
}

const MISSING_SQLSTATES: ReadonlySet<unknown> = new Set([
  '3F000', // no such schema
  '42P01', // no such table
  '42883', // no such function
])
const NO_PRIVILEGE = '42501'

/** The error to give a caller when the schema is missing or not granted; undefined when it is something else. */
export function schemaProblem(error: unknown): SchemaError | undefined {
  if (error instanceof SchemaError) return error
  const { code, message } = (error ?? {}) as { readonly code?: unknown; readonly message?: unknown }
  if (code === NO_PRIVILEGE) {
    const hint = 'docs/roles.md lists what each role needs; npx pg-membership sql --grants prints it'
    return new SchemaError(`The schema is not granted to this role: ${String(message)} (${hint})`, {
      cause: error,
    })
  }
  if (MISSING_SQLSTATES.has(code)) {
    const hint = 'Run: npx pg-membership migrate'
    return new SchemaError(`The schema is not there, or older: ${String(message)}. ${hint}`, { cause: error })
  }
  return undefined
}
