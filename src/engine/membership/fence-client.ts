/** Fences, and refuses clients with which a fence would protect nothing. */
import type { QueryClient } from '../../api/query-client.js'

/** @throws TypeError for what is not a client in a transaction; else what `ask` throws. */
export async function fence(client: QueryClient, ask: () => Promise<void>): Promise<void> {
  requireClient(client)
  await ask()
  requireTransaction(client)
}

/** @throws TypeError for what is not a client, and for a pool, whose queries may go to different connections. */
function requireClient(client: unknown): asserts client is QueryClient {
  const { query, totalCount, $pool } = (client ?? {}) as Record<string, unknown>
  if (typeof query !== 'function')
    throw new TypeError('fence() needs a client with a method query(text, values)')
  // Pools of pg and its like have totalCount. A database of pg-promise has $pool, but its tasks have not.
  if (totalCount !== undefined || $pool !== undefined) {
    throw new TypeError('fence() needs the client that runs the transaction, not a pool')
  }
}

/** Checks after the fence: in autocommit the fence is over already, and protects nothing. @throws TypeError */
function requireTransaction(client: QueryClient): void {
  const { getTransactionStatus, pipeline } = client as { getTransactionStatus?: unknown; pipeline?: unknown }
  if (typeof getTransactionStatus !== 'function' || pipeline === true) return
  if (getTransactionStatus.call(client) === 'I') {
    throw new TypeError(
      'fence() was called outside a transaction, where it protects nothing: begin a transaction first',
    )
  }
}
