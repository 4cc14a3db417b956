import type { Codec } from './types.js'

/**
 * What every validator has that follows Standard Schema 1 (standardschema.dev): zod, valibot, arktype and others. A
 * copy, as its authors suggest, so that nobody needs their package to compile.
 */
export interface StandardSchemaV1<Input = unknown, Output = Input> {
  /** The properties of the standard. */
  readonly '~standard': {
    /** Of the standard. */
    readonly version: 1
    /** The name of the library. */
    readonly vendor: string
    /** Validates any value. */
    readonly validate: (value: unknown) => StandardResult<Output> | Promise<StandardResult<Output>>
    /** For inference: nothing is there when the program runs. */
    readonly types?:
      | {
          /** What it takes. */
          readonly input: Input
          /** What it makes of that. */
          readonly output: Output
        }
      | undefined
  }
}

type StandardResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | {
      readonly issues: readonly {
        readonly message: string
        readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined
      }[]
    }

/**
 * Data as JSON. With a schema, `decode` answers with what the schema makes of a value, and throws a TypeError, whose
 * `cause` has the issues, for a value that the schema refuses. `encode` throws for what `decode` would refuse, so that
 * nobody sets what others cannot read: a schema that transforms must take its own results.
 *
 * The schema must answer at once. A promise is refused with a TypeError: members are decoded where nobody waits.
 *
 * @throws TypeError for what is not a Standard Schema.
 */
export function json<T>(schema?: StandardSchemaV1<unknown, T>): Codec<T> {
  // A schema may be a function: those of arktype are.
  const { '~standard': standard } = Object(schema) as { '~standard'?: { validate?: unknown } }
  if (schema !== undefined && typeof standard?.validate !== 'function') {
    throw new TypeError('The schema must follow Standard Schema: have ["~standard"].validate')
  }
  const decode = (data: string): T => {
    const value: unknown = JSON.parse(data)
    return schema === undefined ? (value as T) : validated(schema, value)
  }
  const encode = (value: T): string => {
    const data: unknown = JSON.stringify(value)
    if (typeof data !== 'string') throw new TypeError(`There is no JSON for ${typeof value}`)
    if (schema !== undefined) decode(data)
    return data
  }
  return { encode, decode }
}

function validated<T>(schema: StandardSchemaV1<unknown, T>, value: unknown): T {
  const result = schema['~standard'].validate(value)
  if ('then' in result) {
    Promise.resolve(result).catch(() => undefined) // Nobody else hears of it.
    throw new TypeError('The schema answers with a promise: asynchronous validation is not possible here')
  }
  if (!result.issues) return result.value
  const told = result.issues.map(({ message, path = [] }) => {
    const keys = path.map((part) => String(typeof part === 'object' ? part.key : part))
    return keys.length === 0 ? message : `${keys.join('.')}: ${message}`
  })
  throw new TypeError(`Refused by the schema: ${told.join('; ')}`, { cause: result.issues })
}
