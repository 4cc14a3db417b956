/** Options: their defaults, their ranges, and their refusal. */
import { OptionError } from './errors.js'
import type { Logger } from './report.js'

/** The part of node-postgres's client configuration that applies here, described structurally. */
export interface ConnectionConfig {
  readonly connectionString?: string
  readonly host?: string
  readonly port?: number
  readonly database?: string
  readonly user?: string
  readonly password?: string | (() => string | Promise<string>)
  readonly ssl?: boolean | object
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

export function connectionOption(option: string, connection: unknown): Connection {
  if (typeof connection === 'function') return connection as Connection
  checkedConfig(option, connection)
  return connection as Connection
}

/** A configuration for pg, from any form of `connection` but a function. */
export function checkedConfig(option: string, connection: unknown): ConnectionConfig {
  const config = typeof connection === 'string' ? { connectionString: connection } : connection
  if (typeof config !== 'object' || config === null) {
    return refuse(option, connection, 'be a URL, a configuration or a function')
  }
  const { connectionString, host, port, database, user, password } = config as Record<string, unknown>
  if (connectionString !== undefined) checkUrl(option, connectionString)
  for (const [name, value] of Object.entries({ host, database, user })) {
    if (value !== undefined && (typeof value !== 'string' || value === '' || value.includes('\0'))) {
      refuse(`${option}.${name}`, value, 'be a string that is not empty')
    }
  }
  if (port !== undefined) checkPort(`${option}.port`, port)
  if (
    password !== undefined &&
    password !== null &&
    typeof password !== 'string' &&
    typeof password !== 'function'
  ) {
    // Not shown: it may be nearly right.
    throw new OptionError(`Option ${option}.password must be a string or a function`)
  }
  return config as ConnectionConfig
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

function checkUrl(option: string, url: unknown): void {
  // The value is not shown: it may hold a password.
  if (typeof url !== 'string' || url === '' || url.includes('\0')) {
    throw new OptionError(`Option ${option} must be a PostgreSQL URL that is not empty`)
  }
  // A path to a Unix socket, which pg takes too.
  if (url.startsWith('/')) return
  let parsed: URL
  try {
    parsed = new URL(url.replace(/^(postgres(?:ql)?:\/\/)([^@/]*@)?(%2f[^/?]*)/i, '$1$2localhost'))
  } catch {
    throw new OptionError(
      `Option ${option} must be a PostgreSQL URL (postgres://user@host:5432/database): it cannot be parsed`,
    )
  }
  if (!/^(postgres|postgresql|socket):$/.test(parsed.protocol)) {
    refuse(option, parsed.protocol, "be a PostgreSQL URL, with the scheme 'postgres:'")
  }
  if (parsed.port !== '') checkPort(`${option} (its port)`, Number(parsed.port))
}

function checkPort(option: string, port: unknown): void {
  const number = typeof port === 'string' ? Number(port) : port
  if (typeof number !== 'number' || !Number.isInteger(number) || number < 1 || number > 65_535) {
    refuse(option, port, 'be an integer from 1 to 65535')
  }
}

function shown(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value)
  if (typeof value === 'object' && value !== null) return Array.isArray(value) ? 'an array' : 'an object'
  return String(value)
}
