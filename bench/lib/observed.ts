/** The observer's process, and what it saw. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { Sighting, Watched } from '../observer.js'

const OBSERVER = fileURLToPath(new URL('../observer.ts', import.meta.url))

interface Awaited {
  readonly of: Sighting['of']
  readonly is: (keys: readonly string[]) => boolean
  readonly resolve: (at: bigint) => void
}

export class Observed implements AsyncDisposable {
  readonly #process: ChildProcess
  readonly #awaited = new Set<Awaited>()

  constructor(watched: Watched) {
    this.#process = fork(OBSERVER, [JSON.stringify(watched)], { execArgv: ['--import', 'tsx'] })
    this.#process.on('message', ({ of, keys, at }: Sighting) => {
      for (const one of this.#awaited) {
        if (one.of !== of || !one.is(keys)) continue
        this.#awaited.delete(one)
        one.resolve(BigInt(at))
      }
    })
    this.#process.on('exit', (code) => {
      if (code !== null && code !== 0) throw new Error(`The observer ended with ${code}`)
    })
  }

  /** When the observer first sees this, from now on. */
  sees(of: Sighting['of'], is: (keys: readonly string[]) => boolean): Promise<bigint> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new Error(`The observer has not seen what it was to see of ${of}`)),
        10_000,
      )
      this.#awaited.add({
        of,
        is,
        resolve: (at) => {
          clearTimeout(timer)
          resolve(at)
        },
      })
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = once(this.#process, 'exit')
    this.#process.kill('SIGKILL')
    await ended
  }
}
