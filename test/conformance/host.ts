import { expect } from 'vitest'
import type { Declare } from './suite.js'
import { bounded, ended, join, step } from './world.js'

const MANY = 100

export function host(check: Declare): void {
  check('promise 12: a hundred watchers that share a signal emit no warning', async (world) => {
    const cluster = world.open()
    const controller = new AbortController()
    const { signal } = controller
    const warnings = await warningsOf(async () => {
      const watchers = Array.from({ length: MANY }, () => cluster.watchMembers({ signal }))
      await Promise.all(watchers.map(step))
      const pending = watchers.map((watcher) => watcher.next())
      controller.abort()
      for (const result of await bounded(Promise.all(pending), 'all watchers end')) {
        expect(result).toEqual({ done: true, value: undefined })
      }
      await Promise.all(watchers.map(ended))
    })
    expect(warnings).toEqual([])
  })

  check('promise 12: a hundred calls of each kind that share a signal emit no warning', async (world) => {
    const cluster = world.open()
    const { signal } = new AbortController()
    const warnings = await warningsOf(async () => {
      const memberships = Array.from({ length: MANY }, () => cluster.createMembership())
      await Promise.all([
        ...memberships.map((membership) => membership.whenRegistered({ signal })),
        ...memberships.map((membership) => membership.register({ signal })),
        ...memberships.map(() => cluster.getMembers({ signal })),
        ...memberships.map(() => cluster.getMembers({ signal, fresh: true })),
      ])
      await Promise.all(memberships.map((membership) => membership.setData('changed', { signal })))
      await Promise.all(memberships.map((membership) => membership.deregister({ signal })))
    })
    expect(warnings).toEqual([])
    expect(cluster.snapshot?.members).toEqual([])
  })

  check('promise 12: a hundred listeners to the signal of one lease emit no warning', async (world) => {
    const cluster = world.open()
    const membership = await join(cluster)
    const lease = await membership.register()
    const reasons: unknown[] = []
    const warnings = await warningsOf(async () => {
      for (let n = 0; n < MANY; n++) {
        lease.signal.addEventListener('abort', () => reasons.push(lease.signal.reason))
      }
      await membership.deregister()
    })
    expect(warnings).toEqual([])
    expect(new Set(reasons).size).toBe(1)
    expect(reasons).toHaveLength(MANY)
  })

  check(
    'promise 12: signals that are not of Node end waits and watches as those of Node do',
    async (world) => {
      const cluster = world.open()
      const membership = await join(cluster)
      await cluster.getMembers()
      await world.disconnect(cluster)
      const foreign = new ForeignSignal()
      const signal = foreign as unknown as AbortSignal
      const watcher = cluster.watchMembers({ signal })
      await step(watcher)
      const [watched, read, left] = [
        watcher.next(),
        cluster.getMembers({ signal, fresh: true }),
        membership.deregister({ signal }),
      ].map(outcomeOf)
      foreign.abort('enough')
      expect(await bounded(Promise.all([watched, read, left]), 'all of them end')).toMatchObject([
        { done: true },
        { name: 'AbortError', cause: 'enough' },
        { name: 'AbortError', cause: 'enough' },
      ])
      expect(foreign.listeners).toBe(0)
      await expect(cluster.getMembers({ signal, fresh: true })).rejects.toMatchObject({ name: 'AbortError' })
    },
  )

  check('promise 12: what nobody waits for is no unhandled rejection', async (world) => {
    const unhandled: unknown[] = []
    const note = (error: unknown): void => void unhandled.push(error)
    process.on('unhandledRejection', note)
    try {
      const cluster = world.open()
      const membership = await join(cluster)
      const other = cluster.createMembership()
      other.whenRegistered().catch(() => undefined)
      await membership.setData('changed')
      await step(cluster.watchMembers())
      cluster.watchMembers()
      await world.disconnect(cluster)
      await cluster.close()
      await turn()
    } finally {
      process.off('unhandledRejection', note)
    }
    expect(unhandled).toEqual([])
  })
}

/** As a polyfill makes them: no EventTarget of Node's, and it knows nothing of `once`. */
class ForeignSignal {
  readonly #callbacks = new Set<() => void>()
  aborted = false
  reason: unknown

  get listeners(): number {
    return this.#callbacks.size
  }

  addEventListener(_type: 'abort', callback: () => void): void {
    this.#callbacks.add(callback)
  }

  removeEventListener(_type: 'abort', callback: () => void): void {
    this.#callbacks.delete(callback)
  }

  abort(reason: unknown): void {
    Object.assign(this, { aborted: true, reason })
    for (const callback of this.#callbacks) callback()
  }
}

function outcomeOf(call: Promise<unknown>): Promise<unknown> {
  return call.catch((error: unknown) => error)
}

/** The process warnings that are emitted meanwhile. */
async function warningsOf(activity: () => Promise<void>): Promise<string[]> {
  const warnings: string[] = []
  const note = (warning: Error): void => void warnings.push(`${warning.name}: ${warning.message}`)
  process.on('warning', note)
  try {
    await activity()
    await turn()
  } finally {
    process.off('warning', note)
  }
  return warnings
}

/** Warnings and unhandled rejections are told in the turn after. */
function turn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve)
  })
}
