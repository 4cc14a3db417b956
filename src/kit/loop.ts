/** Repeats one piece of work. Two runs never overlap. */

export interface LoopOptions {
  /** Does the work once. Returns the milliseconds until the next run; Infinity: not before a wake. */
  readonly run: () => Promise<number>
  /** Called when `run` rejects. Returns the milliseconds until the next run; undefined: a backoff. */
  readonly onError: (error: Error) => number | undefined
  /** The longest backoff in milliseconds; called at each failure. */
  readonly maxBackoffMs: () => number
}

const FIRST_BACKOFF_MS = 20

/** A random time between half and all of a bound that doubles with each failure. `random` is in [0, 1). */
export function backoffMs(failures: number, maxMs: number, random: number): number {
  const bound = Math.min(maxMs, FIRST_BACKOFF_MS * 2 ** Math.min(failures - 1, 30))
  return bound * (0.5 + random / 2)
}

export class Loop {
  readonly #options: LoopOptions
  #state: 'idle' | 'running' | 'stopped' = 'idle'
  /** A wake came during the present run: run once more. */
  #again = false
  #failures = 0
  #timer: NodeJS.Timeout | undefined
  #finished: Promise<void> = Promise.resolve()

  constructor(options: LoopOptions) {
    this.#options = options
  }

  /**
   * Runs now, or once more after the present run: any number of wakes cause at most one more run.
   * A wake does not shorten a backoff, so that hints cannot flood a database in trouble.
   */
  wake(): void {
    if (this.#state === 'running') this.#again = true
    else if (this.#state === 'idle' && !(this.#failures > 0 && this.#timer !== undefined)) this.#start()
  }

  /** Like `wake`, but also ends a backoff: for calls of the application, and after a new connection. */
  wakeNow(): void {
    if (this.#state === 'idle') this.#start()
    else this.wake()
  }

  /** Ends a backoff, because the work that failed may succeed now. Does nothing if there is no backoff. */
  retry(): void {
    if (this.#state === 'idle' && this.#failures > 0 && this.#timer !== undefined) this.#start()
  }

  /** Starts no more runs. Resolves when the present run has ended. */
  stop(): Promise<void> {
    this.#state = 'stopped'
    clearTimeout(this.#timer)
    return this.#finished
  }

  #start(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#state = 'running'
    this.#finished = this.#run()
  }

  async #run(): Promise<void> {
    let delayMs: number
    // Wait for the end of the caller's tick: one run does all that was asked for in one tick.
    await Promise.resolve()
    do {
      this.#again = false
      try {
        delayMs = await this.#options.run()
        this.#failures = 0
      } catch (error) {
        this.#failures += 1
        this.#again = false
        delayMs = this.#delayAfter(error instanceof Error ? error : new Error(String(error)))
      }
    } while (this.#isWoken())
    if (this.#isStopped()) return
    this.#state = 'idle'
    if (delayMs !== Infinity) this.#timer = setTimeout(() => this.#start(), Math.max(0, delayMs))
  }

  #delayAfter(error: Error): number {
    const { onError, maxBackoffMs } = this.#options
    return onError(error) ?? backoffMs(this.#failures, maxBackoffMs(), Math.random())
  }

  // During an `await`, another call may have woken or stopped it.
  #isWoken(): boolean {
    return this.#again && !this.#isStopped()
  }

  #isStopped(): boolean {
    return this.#state === 'stopped'
  }
}
