/** Takes this process's turns to remove the members of a cluster that are gone. The database has the rules. */
import { Loop } from '../kit/loop.js'
import type { Report } from './report.js'
import type { Store } from './store.js'
import { failureOf } from './store-error.js'

export interface SweeperOptions {
  readonly store: Store
  readonly report: Report
  /** Whether other processes have members in the cluster: a process does not sweep for its own. */
  readonly hasOthers: () => boolean
}

/** Also after an error that waiting does not seem to cure: others rely on the sweeps, and a missing grant may come. */
const MAX_BACKOFF_MS = 2_000

export class Sweeper {
  readonly #options: SweeperOptions
  readonly #loop: Loop
  #takesTurns = false
  #obstacles = ''

  constructor(options: SweeperOptions) {
    this.#options = options
    this.#loop = new Loop({
      run: () => this.#sweep(),
      onError: (error) => this.#failed(error),
      maxBackoffMs: () => MAX_BACKOFF_MS,
    })
  }

  /** Takes turns from now on, while other processes have members. */
  takeTurns(): void {
    if (!this.#takesTurns) this.sweepNow()
  }

  /** Nobody has swept the cluster for too long. */
  sweepNow(): void {
    if (!this.#options.hasOthers()) return
    this.#takesTurns = true
    this.#loop.wake()
  }

  /** The database is reached again: ends a backoff. */
  retry(): void {
    this.#loop.retry()
  }

  stop(): Promise<void> {
    return this.#loop.stop()
  }

  async #sweep(): Promise<number> {
    const { store, report, hasOthers } = this.#options
    if (!hasOthers()) {
      this.#takesTurns = false
      report.succeeded('sweep')
      return Infinity
    }
    const { waitMs, removed, obstacles } = await store.sweep()
    report.succeeded('sweep')
    report.publish('sweep', { removed, obstacles })
    // Log an obstacle once, not at every sweep while it lasts.
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
