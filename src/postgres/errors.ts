/** What an error from the database or the network means for a caller. Only this file interprets SQLSTATEs. */
import { ConnectionError, type MembershipError, SchemaError } from '../api/errors.js'
import { isLasting, StoreError } from '../engine/store-error.js'

/** The SQLSTATE, or the code of an error of Node. */
export function errorCode(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null | undefined)?.code
  return typeof code === 'string' ? code : undefined
}

/** The SQLSTATE, if the error is the server's answer. */
function sqlstate(error: unknown): string | undefined {
  const code = errorCode(error)
  return code !== undefined && /^[0-9A-Z]{5}$/.test(code) && 'severity' in (error as object)
    ? code
    : undefined
}

/**
 * Whether the connection must not be used again after this error. It is broken, or its server takes no writes. Or the
 * server's clock jumped (MB003: a registration seems too old), and a new connection asks for the time again. Or a
 * prepared statement has another result since a migration.
 */
export function breaksConnection(error: unknown): boolean {
  return /^(57P0|08|25006|MB003|$)/.test(sqlstate(error) ?? '') || isPlanOutdated(error)
}

/** The server answered, and the statement had no effect. Otherwise nobody knows whether it had one. */
function wasRefused(error: unknown): boolean {
  return sqlstate(error) === 'MB003' || isPlanOutdated(error) || !breaksConnection(error)
}

/** "cached plan must not change result type". */
function isPlanOutdated(error: unknown): boolean {
  const { routine } = (error ?? {}) as { readonly routine?: unknown }
  return sqlstate(error) === '0A000' && routine === 'RevalidateCachedQuery'
}

/** Serialization failure, deadlock, lock timeout, or a duplicate of this process's own attempt: try again soon. */
function isConflict(error: unknown): boolean {
  return ['40001', '40P01', '55P03', '23505'].includes(errorCode(error) ?? '')
}

const PERMANENT_SQLSTATES: ReadonlySet<string> = new Set([
  '28000', // invalid authorization: no such role, refused by pg_hba.conf
  '28P01', // wrong password
  '3D000', // no such database
])

/** Node refuses the server's certificate. */
const PERMANENT_TLS: ReadonlySet<string> = new Set([
  ...['DEPTH_ZERO_SELF_SIGNED_CERT', 'SELF_SIGNED_CERT_IN_CHAIN', 'UNABLE_TO_VERIFY_LEAF_SIGNATURE'],
  ...['UNABLE_TO_GET_ISSUER_CERT', 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY', 'CERT_SIGNATURE_FAILURE'],
  ...['CERT_CHAIN_TOO_LONG', 'PATH_LENGTH_EXCEEDED', 'INVALID_CA', 'INVALID_PURPOSE'],
  ...['CERT_HAS_EXPIRED', 'CERT_NOT_YET_VALID', 'CERT_REVOKED', 'CERT_REJECTED', 'CERT_UNTRUSTED'],
  ...['ERR_TLS_CERT_ALTNAME_INVALID', 'HOSTNAME_MISMATCH'],
])

/** The server refuses this client's certificate, or what it offers. */
const PERMANENT_ALERT =
  /^ERR_SSL_.*ALERT_(UNKNOWN_CA|\w*CERTIFICATE\w*|HANDSHAKE_FAILURE|PROTOCOL_VERSION|INSUFFICIENT_SECURITY)$/

/** The error for the engine: the statement had no effect, nobody knows whether it had one, or it never will. */
export function storeError(error: unknown): StoreError | MembershipError {
  const cause = error instanceof Error ? error : new Error(String(error))
  return permanentError(error) ?? new StoreError(wasRefused(error) ? 'no effect' : 'nobody knows', cause)
}

/** The answer of a statement; or throws what its failure means. */
export function answerOf<T>(statement: Promise<T>): Promise<T> {
  return statement.catch((error: unknown) => {
    throw storeError(error)
  })
}

/** Of a question on behalf of a registration; undefined: it is not current (MB001). */
export async function answerIfCurrent<T>(statement: Promise<T>): Promise<T | undefined> {
  try {
    return await statement
  } catch (error) {
    if (sqlstate(error) === 'MB001') return undefined
    throw storeError(error)
  }
}

/** The error to give a caller when waiting cannot help; undefined when the trouble may pass. */
export function permanentError(error: unknown): MembershipError | undefined {
  if (isLasting(error)) return error
  const code = errorCode(error) ?? ''
  const message = error instanceof Error ? error.message : String(error)
  if (
    PERMANENT_SQLSTATES.has(code) ||
    PERMANENT_TLS.has(code) ||
    PERMANENT_ALERT.test(code) ||
    // A resolver that is down says EAI_AGAIN; this one answered that there is no such host.
    code === 'ENOTFOUND' ||
    /^(SASL|SCRAM|The server does not support SSL)/.test(message)
  ) {
    return new ConnectionError(`Cannot connect to PostgreSQL: ${message}`, { cause: error })
  }
  const problem = schemaProblem(error)
  if (problem !== undefined || !wasRefused(error) || isConflict(error) || isPlanOutdated(error))
    return problem
  // Wrong data, a violated constraint, an unknown object: the statement will never succeed.
  if (/^(0A|22|23|42)/.test(code))
    return new SchemaError(`The database refuses the statement: ${message}`, { cause: error })
  return undefined
}

const MISSING_SQLSTATES: ReadonlySet<unknown> = new Set([
  '3F000', // no such schema
  '42P01', // no such table
  '42883', // no such function
])
const NO_PRIVILEGE = '42501'

/** The error to give a caller when the schema is missing or not granted; undefined for any other error. */
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
    return new SchemaError(`The schema is missing or too old: ${String(message)}. ${hint}`, { cause: error })
  }
  return undefined
}
