/** The command line's arguments: parsed strictly, and refused in words that help. */
import { parseArgs, type ParseArgsConfig } from 'node:util'

export type OptionsConfig = NonNullable<ParseArgsConfig['options']>

/** The caller got the command wrong: exit code 2. */
export class UsageError extends Error {}

/** What a command sees of the process that it runs in. */
export interface Surroundings {
  readonly env: Readonly<Record<string, string | undefined>>
  /** The size of the terminal now; undefined where the output goes elsewhere. */
  readonly columns: number | undefined
  readonly rows: number | undefined
  /** A person looks at a terminal. */
  readonly isTerminal: boolean
  /** The terminal can be painted in place. */
  readonly canRedraw: boolean
  /** Whether colours are wanted. */
  readonly hasColours: boolean
  /** Writes at once, unchanged: for commands that go on. */
  readonly print: (text: string) => void
  /** Writes a line to stderr: for what is no answer. */
  readonly complain: (text: string) => void
  /** Asks a person for a line; undefined: nobody is there to answer. */
  readonly ask: ((question: string) => Promise<string>) | undefined
  /** Aborts when nobody reads any more. */
  readonly signal: AbortSignal | undefined
}

export interface Arguments {
  readonly surroundings: Surroundings
  readonly positionals: readonly string[]
  flag(name: string): boolean
  text(name: string): string | undefined
  texts(name: string): readonly string[]
  integer(name: string): number | undefined
}

const COMMON: OptionsConfig = {
  help: { type: 'boolean', short: 'h' },
  schema: { type: 'string' },
}
const CONNECTED: OptionsConfig = {
  connection: { type: 'string' },
  json: { type: 'boolean' },
}

export interface Syntax {
  readonly options: OptionsConfig
  readonly maxPositionals: number
  /** Takes --connection and --json. */
  readonly connects: boolean
}

export function parseArguments(
  args: readonly string[],
  syntax: Syntax,
  surroundings: Surroundings,
): Arguments {
  const options = { ...COMMON, ...(syntax.connects ? CONNECTED : {}), ...syntax.options }
  const { values, positionals } = parsed([...args], options)
  const extra = positionals[syntax.maxPositionals]
  if (extra !== undefined) throw new UsageError(`unexpected argument ${JSON.stringify(extra)}`)
  const text = (name: string): string | undefined => {
    const value = values[name]
    if (value === '') throw new UsageError(`--${name} needs a value`)
    return typeof value === 'string' ? value : undefined
  }
  return {
    surroundings,
    positionals,
    flag: (name) => values[name] === true,
    text,
    texts: (name) => (values[name] ?? []) as string[],
    integer: (name) => {
      const value = text(name)
      if (value !== undefined && !/^\d{1,9}$/.test(value)) {
        throw new UsageError(`--${name} must be a whole number, not ${JSON.stringify(value)}`)
      }
      return value === undefined ? undefined : Number(value)
    },
  }
}

function parsed(args: string[], options: OptionsConfig) {
  try {
    return parseArgs({ args, options, allowPositionals: true, strict: true })
  } catch (error) {
    // Node adds advice about '--', which hardly ever helps: keep the first sentence.
    throw new UsageError((error as Error).message.split(/[.\n]/)[0], { cause: error })
  }
}

/** A length of time, as '90s' or '2h30m'. */
export function lengthMs(args: Arguments, name: string): number | undefined {
  const length = moment(args, name)
  if (length === undefined) return undefined
  if (length.agoMs === null) throw new UsageError(`--${name} must be a duration like 90s, 2h30m or 7d`)
  return length.agoMs
}

/** The id of a member. */
export function uuid(name: string, value: string): string {
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(value)) {
    throw new UsageError(`${name} must be the id of a member, a UUID, not ${JSON.stringify(value)}`)
  }
  return value
}

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1e3, m: 6e4, h: 36e5, d: 864e5, w: 6048e5 }

/** A moment for PostgreSQL: how long ago by its clock, or a time. */
export interface Moment {
  readonly agoMs: number | null
  readonly time: string | null
}

export function moment(args: Arguments, name: string): Moment | undefined {
  const value = args.text(name)
  if (value === undefined) return undefined
  if (/^(\d+(\.\d+)?(ms|[smhdw]))+$/.test(value)) {
    const parts = [...value.matchAll(/([\d.]+)(ms|[smhdw])/g)]
    return {
      agoMs: parts.reduce((sum, [, n, unit = '']) => sum + Number(n) * (UNIT_MS[unit] ?? 0), 0),
      time: null,
    }
  }
  // JavaScript takes a bare date for UTC, but every other time without a zone for local time. Here both are local.
  const time = new Date(/^\d{4}-\d\d-\d\d$/.test(value) ? `${value}T00:00` : value)
  if (!/^\d{4}-/.test(value) || Number.isNaN(time.getTime())) {
    throw new UsageError(
      `--${name} must be a duration like 90s, 2h30m or 7d, or a time like 2026-01-31T09:00Z`,
    )
  }
  return { agoMs: null, time: time.toISOString() }
}
