import type { Cluster, Member, Membership, MembershipOptions, QueryClient } from 'pg-membership'
import { AbortedError } from 'pg-membership'
import { expect } from 'vitest'
import { until } from '../support/until.js'
import type { Harness, OpenOptions, Outcome, Removal } from './harness.js'

/** Time for anything that takes milliseconds when all is well. */
const PATIENCE_MS = 15_000

/** The least silence that ends a lease in these tests: long enough that no busy machine reaches it by accident. */
export const SHORT_TTL_MS = 3_000

/** What a transaction can begin with: a membership, or a term. */
interface Fencing {
  readonly fence: (client: QueryClient) => Promise<void>
}

/** One test's own corner: a cluster name of its own, and everything opened in it is closed with it. */
export class World {
  readonly name: string
  readonly #harness: Harness
  readonly #opened: Cluster[] = []

  constructor(harness: Harness) {
    this.#harness = harness
    this.name = harness.uniqueName()
  }

  get removals(): readonly Removal[] {
    return this.#harness.removals
  }

  /** Another process's view of the same cluster, unless a name says otherwise. */
  open({ name = this.name, ...options }: OpenOptions & { readonly name?: string } = {}): Cluster {
    const cluster = this.#harness.open(name, options)
    this.#opened.push(cluster)
    return cluster
  }

  remove(id: string, reason: Removal): Promise<void> {
    return this.#harness.remove(id, reason)
  }

  disconnect(cluster: Cluster): Promise<void> {
    return this.#harness.disconnect(cluster)
  }

  reconnect(cluster: Cluster): Promise<void> {
    return this.#harness.reconnect(cluster)
  }

  fence(fencing: Fencing): Promise<Outcome> {
    return this.#harness.inTransaction((client) => fencing.fence(client))
  }

  inTransaction(fence: (client: QueryClient) => Promise<void>): Promise<Outcome> {
    return this.#harness.inTransaction(fence)
  }

  async close(): Promise<void> {
    await Promise.all(
      this.#opened.map(async (cluster) => {
        await cluster.close()
        await this.#harness.release(cluster)
      }),
    )
  }
}

/** A membership that is registered already. */
export async function join(cluster: Cluster, options?: MembershipOptions): Promise<Membership> {
  const membership = cluster.createMembership(options)
  await membership.register()
  return membership
}

export function dataOf(members: readonly Member[] | undefined): string[] | undefined {
  return members?.map(({ data }) => data)
}

export function idsOf(members: readonly (Member | Membership)[] | undefined): string[] | undefined {
  return members?.map(({ id }) => id)
}

/** What the database says, not the cache. */
export function fresh(cluster: Cluster): Promise<readonly Member[]> {
  return bounded(cluster.getMembers({ fresh: true }), 'a fresh read')
}

/** Waits until this view lists members with exactly this data, in this order. */
export function shows(cluster: Cluster, data: readonly string[]): Promise<void> {
  return eventually(
    () => same(dataOf(cluster.snapshot?.members), data),
    () =>
      `the snapshot shows ${JSON.stringify(data)}, not ${JSON.stringify(dataOf(cluster.snapshot?.members))}`,
  )
}

/** Waits until the signal aborts, and hands out why. */
export async function abortOf(signal: AbortSignal): Promise<unknown> {
  await eventually(() => signal.aborted, 'the signal aborts')
  return signal.reason
}

export function isConnected(cluster: Cluster): boolean {
  return cluster.status.mode === 'listening' || cluster.status.mode === 'polling'
}

export async function eventually(condition: () => boolean, message: string | (() => string)): Promise<void> {
  await until(condition, { withinMs: PATIENCE_MS, message })
}

/** The promise itself, unless it takes so long that something is broken. */
export async function bounded<T>(promise: PromiseLike<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      reject(new Error(`took more than ${String(PATIENCE_MS)} ms: ${what}`))
    }, PATIENCE_MS)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

/** The next members that a watcher yields. */
export async function step(watcher: AsyncIterator<readonly Member[]>): Promise<readonly Member[]> {
  const result = await bounded(watcher.next(), 'the watcher yields')
  if (result.done === true) throw new Error('the watcher ended')
  return result.value
}

/** Waits until a watcher has ended normally. */
export async function ended(watcher: AsyncIterator<readonly Member[]>): Promise<void> {
  expect(await bounded(watcher.next(), 'the watcher ends')).toEqual({ done: true, value: undefined })
}

export interface Followed {
  readonly seen: readonly (readonly Member[])[]
  readonly end: Promise<void>
}

/** Consumes a watcher in the background, as an application's loop does. */
export function follow(
  watcher: AsyncIterable<readonly Member[]>,
  each: (members: readonly Member[]) => void = () => undefined,
): Followed {
  const seen: (readonly Member[])[] = []
  const loop = async (): Promise<void> => {
    for await (const members of watcher) {
      seen.push(members)
      each(members)
    }
  }
  const end = loop()
  end.catch(() => undefined)
  return { seen, end }
}

/** Expects a rejection with an AbortedError for this reason, and hands it out. */
export async function expectAborted(promise: Promise<unknown>, reason: unknown): Promise<AbortedError> {
  const error: unknown = await bounded(promise, 'the aborted call settles').then(
    () => new Error('resolved although it was aborted'),
    (rejection: unknown) => rejection,
  )
  if (!(error instanceof AbortedError)) throw error
  expect(error).toMatchObject({ name: 'AbortError', code: 'ABORTED' })
  expect(error.cause).toBe(reason)
  return error
}

function same(actual: readonly string[] | undefined, expected: readonly string[]): boolean {
  return actual?.length === expected.length && actual.every((value, index) => value === expected[index])
}
