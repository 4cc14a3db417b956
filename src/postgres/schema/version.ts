/** The version of the schema that this code needs, and the error for any other. */
import { SchemaError } from '../../api/errors.js'

/** The newest migration that this code knows. */
export const SCHEMA_VERSION = 1

/** What the database's own schema_version() says. */
export interface FoundVersion {
  readonly version: number
  /** The oldest code that may work with it. */
  readonly compatibleFrom: number
}

/** Asks for it; `$$.` stands for the schema. */
export const VERSION_QUESTION = 'select version, compatible_from as "compatibleFrom" from $$.schema_version()'

/** Throws unless code that knows this version can work with what was found. */
export function checkSchemaVersion(found: FoundVersion | undefined, newest = SCHEMA_VERSION): void {
  const ours = `this pg-membership knows version ${String(newest)}`
  if (found === undefined) throw new SchemaError('The schema is missing. Run: npx pg-membership migrate')
  if (found.version < newest) {
    const message = `The schema has version ${String(found.version)}; ${ours}. Run: npx pg-membership migrate`
    throw new SchemaError(message)
  }
  if (found.compatibleFrom > newest) {
    const range = `version ${String(found.version)}, and needs code that knows ${String(found.compatibleFrom)}`
    throw new SchemaError(`The schema has ${range}; ${ours}. Upgrade the package pg-membership`)
  }
}
