/** Errors, in words for people. */

/** Of pg and of our own time limits: a connection that was lost, or that nobody answers. */
const LOST =
  /^(connecting took|the answer took|Connection terminated|Client has encountered a connection error)/

/** One of the server's, with the hint of a function of ours. PostgreSQL's own hints are for who writes the SQL. */
export function inWords(error: unknown): string {
  // If several addresses of a host failed, the messages are in the parts.
  const { message, code, cause } = (error instanceof AggregateError ? error.errors[0] : error) as Error & {
    readonly code?: unknown
  }
  const unreachable = /^(ECONN|EHOST|ENET|ETIMEDOUT|EAI_|ENOENT|EPIPE|57P0|08)/.test(String(code))
  if (unreachable || LOST.test(message)) {
    return `cannot reach the database: ${message} (is it running there? check --connection or DATABASE_URL)`
  }
  const hint = hintOf(error) ?? hintOf(cause)
  return hint === undefined ? message : `${message}. ${hint}`
}

function hintOf(error: unknown): string | undefined {
  const { hint, routine } = (error ?? {}) as { readonly hint?: unknown; readonly routine?: unknown }
  return typeof hint === 'string' && routine === 'exec_stmt_raise' ? hint : undefined
}
