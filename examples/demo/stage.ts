/** All processes of the demo, and ways to wait for what happens to them. Disposing ends them all. */
import { EventEmitter, once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { Actor } from './actor.js'

export interface StageOptions {
  readonly url: string
  readonly schema: string
  readonly ttlMs: number
  /** Ends every wait. */
  readonly signal: AbortSignal
}

const PATIENCE_MS = 20_000
const EXIT_MS = 5_000
const READING_MS = 1_200

export class Stage implements AsyncDisposable {
  readonly actors: Actor[] = []
  readonly #options: StageOptions
  readonly #events = new EventEmitter()
  readonly #failure = new AbortController()
  readonly #signal: AbortSignal

  constructor(options: StageOptions) {
    this.#options = options
    this.#signal = AbortSignal.any([options.signal, this.#failure.signal])
  }

  start(name: string): Actor {
    const actor = new Actor(name, {
      ...this.#options,
      changed: () => this.#events.emit('change'),
      failed: (error) => this.#failure.abort(error),
    })
    this.actors.push(actor)
    return actor
  }

  get running(): Actor[] {
    return this.actors.filter(({ fate }) => fate === 'running')
  }

  /** What holds for every process that runs. */
  everyone(condition: (actor: Actor) => unknown): boolean {
    return this.running.every(condition)
  }

  /** Waits until the condition holds, and tells how many milliseconds that took. */
  async until(what: string, condition: () => unknown, patienceMs = PATIENCE_MS): Promise<number> {
    const start = performance.now()
    const late = AbortSignal.timeout(patienceMs)
    const signal = AbortSignal.any([this.#signal, late])
    while (!condition()) {
      try {
        await once(this.#events, 'change', { signal })
      } catch {
        this.#signal.throwIfAborted()
        throw new Error(`Not within ${String(patienceMs / 1000)} seconds: ${what}`)
      }
    }
    return performance.now() - start
  }

  /** Time to read, on a terminal. Nothing depends on it. */
  async pause(): Promise<void> {
    if (process.stdout.isTTY)
      await sleep(READING_MS, undefined, { signal: this.#signal }).catch(() => undefined)
    this.#signal.throwIfAborted()
  }

  /** Kills the processes that are still there, frozen or not. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const actor of this.actors) if (!actor.hasExited) actor.kill()
    const deadline = AbortSignal.timeout(EXIT_MS)
    while (!this.actors.every(({ hasExited }) => hasExited))
      await once(this.#events, 'change', { signal: deadline })
  }
}
