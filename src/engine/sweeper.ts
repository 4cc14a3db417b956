/** Takes this process's turns at removing the members of a cluster that are gone. The rules are the database's. */
import { Loop } from '../kit/loop.js'
import type { Report } from './report.js'
import type { Store } from './store.js'
import { failureOf } from './store-error.js'

export interface SweeperOptions {
  readonly store: Store
  readonly report: Report
  /** Whether somebody is to be watched; nobody is where all members are this process's own. */
  readonly watching: () => boolean
}

/** Also where waiting seems to be of no use: others rely on this process, and a grant may be missing for a moment. */
const MAX_BACKOFF_MS = 2_000

export class Sweeper {
  readonly #options: SweeperOptions
  readonly #loop: Loop
  #following = false
  #obstacles = ''

  constructor(options: SweeperOptions) {
    this.#options = options
    this.#loop = new Loop({
      run: () => this.#sweep(),
      onError: (error) => this.#failed(error),
      maxBackoffMs: () => MAX_BACKOFF_MS,
    })
  }

  /** Takes part from now on, while there is somebody to watch. */
  follow(): void {
    if (!this.#following) this.sweepNow()
  }

  /** Nobody has swept for too long. */
  sweepNow(): void {
    if (!this.#options.watching()) return
    this.#following = true
    this.#loop.wake()
  }

  /** The database is reached again: no backoff applies. */
  retry(): void {
    this.#loop.retry()
  }

  stop(): Promise<void> {
    return this.#loop.stop()
  }

  async #sweep(): Promise<number> {
    const { store, report, watching } = this.#options
    if (!watching()) {
      this.#following = false
      report.succeeded('sweep')
      return Infinity
    }
    const { waitMs, removed, obstacles } = await store.sweep()
    report.succeeded('sweep')
    report.publish('sweep', { removed, obstacles })
    // Once, not twice a second for as long as it stands in the way.
    if (obstacles.join() !== this.#obstacles) {
      this.#obstacles = obstacles.join()
      if (obstacles.length > 0)
        report.log('warn', { obstacles }, 'Members that are gone could not be removed')
    }
    return waitMs
  }

  #failed(error: Error): undefined {
    this.#options.report.failed('sweep', failureOf(error).error)
  }
}
