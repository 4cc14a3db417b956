/** Asks the store until it answers, for the layers. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Cluster } from '../api/cluster.js'
import { ClosedError, MembershipError, MembershipLostError } from '../api/errors.js'
import type { Lease } from '../api/lease.js'
import { backoffMs } from './loop.js'
import { refuse, requireText } from './options.js'
import { abortedError, onAbort } from './waiting.js'

const MAX_BACKOFF_MS = 1_000
const MAX_TEXT_BYTES = 255

export interface Asking {
  readonly cluster: Cluster
  /** The caller's: an AbortedError with the last trouble ends the wait. */
  readonly signal?: AbortSignal | undefined
  /** Others: their reasons end the wait. */
  readonly ends?: readonly AbortSignal[]
}

/**
 * Asks again after any error but a MembershipError, until the cluster is closed. If a signal aborts, only the wait ends:
 * a question that is under way is still answered. `ask` gets a signal that aborts when the wait is over.
 */
export async function untilAnswered<T>(
  ask: (over: AbortSignal) => Promise<T>,
  { cluster, signal, ends = [] }: Asking,
): Promise<T> {
  const over = new AbortController()
  let lastError: Error | undefined
  const releases: (() => void)[] = []
  const givenUp = new Promise<never>((_, reject) => {
    if (signal !== undefined) releases.push(onAbort(signal, () => reject(abortedError(signal, lastError))))
    for (const end of ends) releases.push(onAbort(end, () => reject(end.reason as Error)))
  })
  const asking = async (): Promise<T> => {
    for (let failures = 1; ; failures += 1) {
      if (cluster.status.mode === 'closed') throw new ClosedError('The cluster is closed')
      try {
        return await ask(over.signal)
      } catch (error) {
        if (error instanceof MembershipError) throw error
        lastError = causeOf(error)
      }
      await sleep(backoffMs(failures, MAX_BACKOFF_MS, Math.random()), undefined, { signal: over.signal })
    }
  }
  try {
    const isOver = [signal, ...ends].some((one) => one?.aborted === true)
    return await Promise.race(isOver ? [givenUp] : [givenUp, asking()])
  } finally {
    over.abort()
    for (const release of releases) release()
  }
}

function causeOf(error: unknown): Error {
  const { cause } = (error ?? {}) as { readonly cause?: unknown }
  if (cause instanceof Error) return cause
  return error instanceof Error ? error : new Error(String(error))
}

/** Why a call that needs a lease fails without one. */
export function withoutLease(cluster: Cluster, lease?: Lease): Error {
  if (lease?.signal.aborted === true) return lease.signal.reason as Error
  if (cluster.status.mode === 'closed') return new ClosedError('The cluster is closed')
  return lease === undefined
    ? new MembershipLostError('The membership has no lease: register it, or wait for whenRegistered()')
    : new MembershipLostError('The registration is not current', { reason: 'removed' })
}

export function checkMembership(membership: unknown): void {
  const { id, whenRegistered } = (membership ?? {}) as Record<string, unknown>
  if (typeof id !== 'string' || typeof whenRegistered !== 'function')
    refuse('membership', membership, 'be a membership of the cluster')
}

/** Each once. @throws OptionError for what is not an iterable of texts that the store can hold. */
export function texts(option: string, values: unknown): string[] {
  if (typeof values !== 'object' || values === null || !(Symbol.iterator in values))
    refuse(option, values, 'be an iterable of strings')
  const checked = new Set<string>()
  for (const value of values as Iterable<unknown>) checked.add(text(option, value))
  return [...checked]
}

export function text(option: string, value: unknown): string {
  requireText(option, value, MAX_TEXT_BYTES)
  return value
}

export function parts<T>(all: readonly T[], most: number): T[][] {
  return Array.from({ length: Math.ceil(all.length / most) }, (_, n) => all.slice(n * most, (n + 1) * most))
}
