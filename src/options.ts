/** Options: their defaults, their ranges, and their refusal. */
import { OptionError } from './errors.js'
import type { Logger } from './report.js'

/**
 * The part of node-postgres's client configuration that applies here, described structurally. Other fields
 * that pg or its pool knows are ignored; what nobody knows is refused, and so are `stream` and `replication`.
 * Where a field is left out, pg takes it from the environment (`PGHOST`, `PGPORT`, …), or its own default.
 */
export interface ConnectionConfig {
  /** A PostgreSQL URL. What it says wins over the other fields. */
  readonly connectionString?: string
  /** A host name, an address, or the directory of a Unix socket. */
  readonly host?: string
  /** A TCP port. Default 5432, unless the environment names another. */
  readonly port?: number
  /** The name of the database. */
  readonly database?: string
  /** The role to connect as. */
  readonly user?: string
  /** The role's password, or a function that is asked for it before every connect. */
  readonly password?: string | (() => string | Promise<string>)
  /** true, or the options of Node's `tls.connect`. Default: no TLS, unless the URL or the environment asks for it. */
  readonly ssl?: boolean | object
  /** `sslnegotiation`, `options`, `enableChannelBinding` and `scramMaxIterations` go to pg as they are. */
  readonly [option: string]: unknown
}

/** A URL, a configuration, or a function that is asked before every connect (to find the primary, to renew a token). */
export type Connection = string | ConnectionConfig | (() => Promise<string | ConnectionConfig>)

/** Connections that several clusters of one process share; the last of them to close closes it. Opaque. */
// The contract's shape, to the letter.
// eslint-disable-next-line @typescript-eslint/consistent-indexed-object-style
export interface Connections {
  readonly [connections: symbol]: true
}

/** Times of one cluster, all in milliseconds. */
export interface Timing {
  readonly ttlMs: number
  readonly heartbeatMs: number
  readonly pollMs: number
  readonly crashGraceMs: number | false
  readonly closeTimeoutMs: number
}

const MAX_NAME_BYTES = 255
const MAX_SCHEMA_BYTES = 63
const TTL_RANGE_MS = [1_000, 86_400_000] as const

/** A name that PostgreSQL can hold as text. */
export function clusterName(name: unknown): string {
  requireText('name', name, MAX_NAME_BYTES)
  return name
}

/** A name that PostgreSQL takes for a schema, when quoted. Longer ones it would cut silently. */
export function schemaName(schema: unknown = 'pgmembership'): string {
  requireText('schema', schema, MAX_SCHEMA_BYTES)
  // In a search_path, "$user" is not a name but whoever asks.
  if (/^(pg_|information_schema$|\$user$)/.test(schema)) {
    refuse(
      'schema',
      schema,
      "not be a name that PostgreSQL reserves: 'pg_…', 'information_schema' or '$user'",
    )
  }
  return schema
}

/** Refuses what nobody reads: a name that was mistyped would be silent. */
export function checkOptions(what: string, options: unknown, known: readonly string[]): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw new OptionError(`The options of ${what} must be an object, not ${shown(options)}`)
  }
  for (const name of Object.keys(options)) {
    if (!known.includes(name)) {
      throw new OptionError(`${what} has no option ${shown(name)}${nearest(name, known)}`)
    }
  }
}

/** To end a message about a name that is not known: perhaps another one is meant. */
export function nearest(name: string, known: readonly string[]): string {
  const distances = known.map((word) => distance(name.toLowerCase(), word.toLowerCase()))
  const least = Math.min(...distances)
  const found = known[distances.indexOf(least)]
  return found !== undefined && least <= 2 ? `. Is '${found}' meant?` : ''
}

/** How many letters differ; a word that begins the other is one away. */
function distance(a: string, b: string): number {
  if (a.length > 2 && b.length > 2 && (a.startsWith(b) || b.startsWith(a))) return 1
  let row = Array.from({ length: b.length + 1 }, (_, n) => n)
  for (let i = 0; i < a.length; i++) {
    const next = [i + 1]
    for (let j = 0; j < b.length; j++) {
      const changed = (row[j] ?? 0) + Number(a[i] !== b[j])
      next.push(Math.min((next[j] ?? 0) + 1, (row[j + 1] ?? 0) + 1, changed))
    }
    row = next
  }
  return row.at(-1) ?? 0
}

export function timing(options: {
  readonly ttlMs?: unknown
  readonly heartbeatMs?: unknown
  readonly pollMs?: unknown
  readonly crashGraceMs?: unknown
  readonly closeTimeoutMs?: unknown
}): Timing {
  const ttlMs = milliseconds('ttlMs', options.ttlMs ?? 15_000, ...TTL_RANGE_MS)
  const heartbeatMs = milliseconds(
    'heartbeatMs',
    options.heartbeatMs ?? ttlMs / 3,
    100,
    ttlMs / 2,
    'ttlMs / 2',
  )
  const crashGraceMs = options.crashGraceMs ?? 400
  return {
    ttlMs,
    heartbeatMs,
    pollMs: milliseconds('pollMs', options.pollMs ?? heartbeatMs, 100, TTL_RANGE_MS[1]),
    crashGraceMs:
      crashGraceMs === false ? false : milliseconds('crashGraceMs', crashGraceMs, 50, ttlMs / 2, 'ttlMs / 2'),
    closeTimeoutMs: milliseconds('closeTimeoutMs', options.closeTimeoutMs ?? 5_000, 0, 3_600_000),
  }
}

export function loggerOption(logger: unknown): Logger | undefined {
  if (logger === undefined) return undefined
  const levels = ['debug', 'info', 'warn', 'error'] as const
  const fits =
    typeof logger === 'object' &&
    logger !== null &&
    levels.every((level) => typeof (logger as Record<string, unknown>)[level] === 'function')
  return fits ? (logger as Logger) : refuse('logger', logger, `have the methods ${levels.join(', ')}`)
}

export function onLostOption(onLost: unknown = 'register-again'): 'register-again' | 'stay-out' {
  if (onLost === 'register-again' || onLost === 'stay-out') return onLost
  return refuse('onLost', onLost, "be 'register-again' or 'stay-out'")
}

export function refuse(option: string, value: unknown, must: string): never {
  throw new OptionError(`Option ${option} must ${must}, not ${shown(value)}`)
}

function requireText(option: string, value: unknown, maxBytes: number): asserts value is string {
  const must = `be a string of 1 to ${maxBytes} bytes of UTF-8, without U+0000 and lone surrogates`
  if (
    typeof value !== 'string' ||
    value === '' ||
    Buffer.byteLength(value) > maxBytes ||
    value.includes('\0') ||
    !value.isWellFormed()
  ) {
    refuse(option, value, must)
  }
}

function milliseconds(option: string, value: unknown, min: number, max: number, maxName?: string): number {
  if (typeof value === 'number' && value >= min && value <= max) return value
  const most = maxName === undefined ? String(max) : `${String(max)} (${maxName})`
  return refuse(option, value, `be a number of milliseconds from ${String(min)} to ${most}`)
}

function shown(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value)
  if (typeof value === 'function') return 'a function'
  if (typeof value === 'object' && value !== null) return Array.isArray(value) ? 'an array' : 'an object'
  return String(value)
}
