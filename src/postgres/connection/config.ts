/**
 * Checks what users give as `connection`, and makes pg's configuration of it.
 *
 * pg takes nearly anything, and fails later: in an event where nobody can catch the error, or with answers that cannot
 * be read. So pg gets only the fields that say where to connect, and as whom, and only after a check of their types.
 */
import { createSecureContext } from 'node:tls'
import type pg from 'pg'
import { parse } from 'pg-connection-string'
import { OptionError } from '../../api/errors.js'
import { nearest, refuse } from '../../engine/options.js'
import type { Connection } from '../options.js'

type Fields = Readonly<Record<string, unknown>>
type Check = (option: string, value: unknown) => void

const PASSED_ON: Readonly<Record<string, Check>> = {
  host: checkText,
  port: checkPort,
  database: checkText,
  user: checkText,
  password: checkPassword,
  options: checkText,
  ssl: checkSsl,
  sslnegotiation: (option, value) => {
    if (value !== 'postgres' && value !== 'direct') refuse(option, value, "be 'postgres' or 'direct'")
  },
  enableChannelBinding: (option, value) => {
    if (typeof value !== 'boolean') refuse(option, value, 'be true or false')
  },
  scramMaxIterations: (option, value) => {
    if (typeof value !== 'number' || !(value > 0)) refuse(option, value, 'be a number above 0')
  },
}

/** Fields that applications give to their own clients and pools, and fields that the library sets itself. */
const IGNORED: ReadonlySet<string> = new Set([
  ...['application_name', 'fallback_application_name', 'client_encoding'],
  ...['connectionTimeoutMillis', 'connect_timeout', 'query_timeout', 'statement_timeout', 'lock_timeout'],
  ...['idle_in_transaction_session_timeout', 'keepAlive', 'keepAliveInitialDelayMillis'],
  ...['binary', 'parseInputDatesAsUTC', 'pipeline', 'Promise', 'types'],
  ...['max', 'min', 'idleTimeoutMillis', 'allowExitOnIdle', 'maxUses', 'maxLifetimeSeconds'],
  ...['Client', 'log', 'onConnect', 'verify'],
])

const REFUSED: Readonly<Record<string, string>> = {
  stream: 'the library makes its own sockets, to be able to destroy them',
  replication: 'a replication connection runs no queries',
  connection: 'the library opens its own connections',
}

/** pg reads certificates from disk, and prints advice about sslmode. A constructor must not; connecting may. */
const URL_FILES = ['sslcert', 'sslkey', 'sslrootcert', 'sslmode']

/** pg does not look for these in a URL. */
const NOT_IN_URL: ReadonlySet<string> = new Set(['enableChannelBinding', 'scramMaxIterations'])

export function connectionOption(option: string, connection: unknown): Connection {
  if (typeof connection !== 'function') fieldsOf(option, connection, withoutFiles)
  return connection as Connection
}

/** pg's configuration, of any form of `connection` but a function. Reads the certificates that a URL names. */
export function connectionConfig(option: string, connection: unknown): pg.ClientConfig {
  const fields = fieldsOf(option, connection, (url) => url)
  const passed = Object.entries(fields).filter(([name]) => Object.hasOwn(PASSED_ON, name))
  const config = Object.fromEntries(passed) as pg.ClientConfig
  return 'ssl' in config ? { ...config, ssl: ownSsl(config.ssl) } : config
}

/** As in pg, the URL wins over other fields. */
function fieldsOf(option: string, connection: unknown, prepare: (url: string) => string): Fields {
  const given = typeof connection === 'string' ? { connectionString: connection } : connection
  const { connectionString, ...fields } = requireConfig(option, given)
  check(option, fields)
  if (connectionString === undefined || connectionString === null) return merge(option, fields)
  const inUrl = fieldsOfUrl(option, connectionString, prepare)
  check(option, inUrl)
  return merge(option, fields, inUrl)
}

function merge(option: string, ...all: Fields[]): Fields {
  const fields: Record<string, unknown> = Object.assign({}, ...all) as Fields
  for (const [name, value] of Object.entries(fields)) {
    // A field without a value means pg's default, which the environment may change.
    if (value === undefined || (value === null && name !== 'ssl')) Reflect.deleteProperty(fields, name)
  }
  if (fields.sslnegotiation === 'direct' && !sslOf(fields.ssl)) {
    refuse(`${option}.ssl`, fields.ssl, "be given where sslnegotiation is 'direct'")
  }
  return fields
}

function requireConfig(option: string, given: unknown): Fields {
  const must = 'be a URL, a configuration or a function'
  if (typeof given !== 'object' || given === null || Array.isArray(given)) return refuse(option, given, must)
  const config = given as Fields
  const instead = insteadOf(given, config)
  if (instead !== undefined) throw new OptionError(`Option ${option} must ${must}: ${instead}`)
  const names = Object.keys(given)
  const allowed = ['connectionString', ...Object.keys(PASSED_ON), ...IGNORED]
  for (const name of names) {
    if (allowed.includes(name)) continue
    const why = Object.hasOwn(REFUSED, name) ? REFUSED[name] : undefined
    if (why === undefined) {
      throw new OptionError(`Option ${option}.${name} is not an option of pg${nearest(name, allowed)}`)
    }
    // A field that is switched off does no harm.
    if (config[name]) throw new OptionError(`Option ${option}.${name} must be left out: ${why}`)
  }
  const prototype: unknown = Object.getPrototypeOf(given)
  if (prototype !== Object.prototype && prototype !== null && !names.some((name) => allowed.includes(name))) {
    return refuse(option, given, must)
  }
  return config
}

/** Advice for values that look like a configuration, and are often given by mistake. */
function insteadOf(given: object, { connect, query, then, connections }: Fields): string | undefined {
  if (typeof connect === 'function' || typeof query === 'function') {
    return 'the library opens its own connections, so give what the pool or client was made with'
  }
  if (given instanceof URL) return 'give the href of the URL'
  if (typeof then === 'function') return 'give the function that returns the promise'
  if (connections !== undefined) return "give the 'connections' of the cluster whose connections to share"
  return undefined
}

function check(option: string, fields: Fields): void {
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined || value === null || !Object.hasOwn(PASSED_ON, name)) continue
    PASSED_ON[name]?.(`${option}.${name}`, value)
  }
}

/** Uses pg's own parser. Like pg, it ignores parameters that pg does not use: they are for other tools. */
function fieldsOfUrl(option: string, url: unknown, prepare: (url: string) => string): Fields {
  // The message leaves out the value, which may have a password in it.
  if (typeof url !== 'string' || url === '' || url.includes('\0')) {
    throw new OptionError(`Option ${option} must be a PostgreSQL URL that is not empty`)
  }
  checkScheme(option, url)
  const params = Object.entries(parsed(option, prepare(url)))
  const fields = Object.fromEntries(params.filter(([name, value]) => value !== '' && !NOT_IN_URL.has(name)))
  if (fields.replication) {
    throw new OptionError(`Option ${option}.replication must be left out: ${REFUSED.replication ?? ''}`)
  }
  return fields
}

function parsed(option: string, url: string): object {
  try {
    return parse(url)
  } catch (error) {
    // Of a file of a certificate that cannot be read, or a mode that needs one. The message has no password in it.
    throw new OptionError(`Option ${option} cannot be used: ${(error as Error).message}`, { cause: error })
  }
}

function checkScheme(option: string, url: string): void {
  // A path to a Unix socket, which pg takes too.
  if (url.startsWith('/')) return
  let scheme: string
  try {
    scheme = parsedUrl(url).protocol
    parse(withoutFiles(url))
  } catch {
    throw new OptionError(
      `Option ${option} must be a PostgreSQL URL (postgres://user@host:5432/database): it cannot be parsed`,
    )
  }
  if (!/^(postgres|postgresql|socket):$/.test(scheme)) {
    refuse(option, scheme, "be a PostgreSQL URL, with the scheme 'postgres:'")
  }
}

function withoutFiles(url: string): string {
  if (url.startsWith('/')) return url
  const parsed = parsedUrl(url)
  for (const name of URL_FILES) if (parsed.searchParams.has(name)) parsed.searchParams.delete(name)
  return parsed.href
}

/** Like libpq and pg, takes a URL without a host before the path: a parameter may name the host. */
function parsedUrl(url: string): URL {
  return new URL(url.replace('@/', '@localhost/'))
}

function checkText(option: string, value: unknown): void {
  if (typeof value !== 'string' || value === '' || value.includes('\0')) {
    refuse(option, value, 'be a string that is not empty')
  }
}

function checkPort(option: string, port: unknown): void {
  const number = typeof port === 'string' ? Number(port) : port
  if (typeof number !== 'number' || !Number.isInteger(number) || number < 1 || number > 65_535) {
    refuse(option, port, 'be an integer from 1 to 65535')
  }
}

function checkPassword(option: string, password: unknown): void {
  if (typeof password === 'string' || typeof password === 'function') return
  // The message leaves out the value, which may be nearly the password.
  throw new OptionError(`Option ${option} must be a string or a function`)
}

function checkSsl(option: string, ssl: unknown): void {
  if (typeof ssl === 'boolean' || (typeof ssl === 'string' && SSL_WORDS.has(ssl))) return
  if (typeof ssl !== 'object' || ssl === null || Array.isArray(ssl)) {
    return refuse(option, ssl, 'be true, false, or what tls.connect takes')
  }
  const { checkServerIdentity } = ssl as Fields
  if (checkServerIdentity !== undefined && typeof checkServerIdentity !== 'function') {
    refuse(`${option}.checkServerIdentity`, checkServerIdentity, 'be a function')
  }
  try {
    createSecureContext(ssl)
  } catch (error) {
    // The message leaves out that of Node, which may have a passphrase in it.
    const code = String((error as { code?: unknown }).code)
    throw new OptionError(
      `Option ${option} must be what tls.connect takes: Node refuses a part of it (${code})`,
    )
  }
}

const SSL_WORDS = new Map<string, pg.ClientConfig['ssl']>([
  ['true', true],
  ['false', false],
  ['no-verify', { rejectUnauthorized: false }],
])

function sslOf(given: unknown): unknown {
  return typeof given === 'string' ? SSL_WORDS.get(given) : given
}

/** A copy, because pg hides the key in the object that it gets. And nobody could catch what a callback throws. */
function ownSsl(given: unknown): pg.ClientConfig['ssl'] {
  const ssl = sslOf(given)
  if (typeof ssl !== 'object' || ssl === null) return ssl === true
  const { key, checkServerIdentity: identify } = ssl as Fields
  return {
    ...ssl,
    ...(key === undefined ? {} : { key: key as string }),
    ...(typeof identify === 'function' && {
      checkServerIdentity: (...about: unknown[]) => {
        try {
          return asError((identify as (...about: unknown[]) => unknown)(...about))
        } catch (error) {
          return asError(error ?? null)
        }
      },
    }),
  }
}

function asError(value: unknown): Error | undefined {
  if (value === undefined || value instanceof Error) return value
  return new Error('checkServerIdentity refuses the server', { cause: value })
}
