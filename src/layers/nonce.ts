/** What a pool hands out. */
import type { Cluster } from '../api/cluster.js'
import { ClosedError, MembershipError } from '../api/errors.js'
import type { QueryClient } from '../api/query-client.js'
import type { Registration } from '../api/registration.js'
import { untilAnswered } from '../kit/asking.js'
import type { NoncesPort, Taken } from '../kit/ports.js'

/** One value that nobody else has. */
export interface Nonce {
  /** As it was stocked. */
  readonly value: string
  /**
   * Inside the caller's transaction: the value is used for good if that commits, and still taken if it rolls back.
   * Keeps the registration from being removed until then. Call it first in the transaction, outside savepoints. The
   * server ends a transaction that then idles for too long, as with `Membership.fence`.
   *
   * @throws The client's own error with code 'MB001' when the registration that took the value is gone: another may have
   * it then. The same when it was used or released before. '55P03' when somebody had a row locked for 2 s. TypeError for a
   * pool of clients, for what is not a client, and for a client outside a transaction.
   */
  use(client: QueryClient): Promise<void>
  /** Back to the pool, unless it was used. Waits for a transaction that is using it. */
  release(): Promise<void>
}

// The type of MembershipError names the codes of the core only.
const Base = MembershipError as unknown as new (message?: string, options?: ErrorOptions) => Error

/** The pool that all processes share has no value left: stock it. A MembershipError. */
export class EmptyError extends Base {
  /** For programs to compare: it does not change between versions. */
  readonly code = 'EMPTY'
}
Object.defineProperty(EmptyError.prototype, 'name', {
  value: 'EmptyError',
  configurable: true,
  writable: true,
})

/** What all processes share, as one of them reaches it. */
export interface SharedPool {
  readonly cluster: Cluster
  readonly port: NoncesPort
  readonly name: string
}

export function handedOut(shared: SharedPool, registration: Registration, taken: Taken): Nonce {
  const { port, name } = shared
  return Object.freeze({
    value: taken.value,
    use: async (client: QueryClient) => await port.use(client, name, registration, taken),
    release: async () => {
      await giveBack(shared, registration, [taken], []).catch((error: unknown) => {
        // With the cluster, the registration has ended: the value is free.
        if (!(error instanceof ClosedError)) throw error
      })
    },
  })
}

/** Resolves when the registration has none of it any more. Waits for the transactions that are using some of it. */
export async function giveBack(
  { cluster, port, name }: SharedPool,
  registration: Registration,
  taken: readonly Taken[],
  lost: readonly string[],
  bound?: AbortSignal,
): Promise<void> {
  let left = taken
  const ask = async (): Promise<void> => {
    const locked = new Set(await port.giveBack(name, registration, left, lost))
    left = left.filter(({ value }) => locked.has(value))
    if (left.length > 0) throw new Error('A transaction has locked some of the values')
  }
  await untilAnswered(ask, { cluster, ends: bound === undefined ? [] : [bound] })
}
