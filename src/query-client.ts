/** What `fence` needs of a client, and how it tells one that cannot give it. */

/** What `fence` needs of a client: pg's Client and PoolClient have it. */
export interface QueryClient {
  /** Runs one statement with parameters, on the connection that holds the transaction. */
  query(text: string, values: unknown[]): Promise<unknown>
}

/** @throws TypeError for a pool, each query of which may go to another connection, and for what is no client. */
export function requireClient(client: unknown): asserts client is QueryClient {
  const { query, totalCount, $pool } = (client ?? {}) as Record<string, unknown>
  if (typeof query !== 'function')
    throw new TypeError('fence() needs a client with a method query(text, values)')
  // Those of pg, and what is built like it; pg-promise's database, whose tasks have no $pool.
  if (totalCount !== undefined || $pool !== undefined) {
    throw new TypeError('fence() needs the client that holds the transaction, not a pool')
  }
}

/** After the fence: in autocommit it is over already, and protects nothing. @throws TypeError */
export function requireTransaction(client: QueryClient): void {
  const { getTransactionStatus, pipeline } = client as { getTransactionStatus?: unknown; pipeline?: unknown }
  if (typeof getTransactionStatus !== 'function' || pipeline === true) return
  if (getTransactionStatus.call(client) === 'I') {
    throw new TypeError(
      'fence() was called outside a transaction, where it protects nothing: begin one first',
    )
  }
}
