/** One piece of work, done again and again, never twice at a time. */

export interface LoopOptions {
  /**
   * Does the work once; returns after how many milliseconds to do it again, Infinity for when woken.
   */
  readonly run: () => Promise<number>
  /** When it rejects: returns after how many milliseconds to do it again, or undefined for a backoff. */
  readonly onError: (error: Error) => number | undefined
  /** The longest backoff in milliseconds; asked at each failure. */
  readonly maxBackoffMs: () => number
}

const FIRST_BACKOFF_MS = 20

/** Full jitter between half and the whole of an exponentially growing bound. `random` is in [0, 1). */
export function backoffMs(failures: number, maxMs: number, random: number): number {
  const bound = Math.min(maxMs, FIRST_BACKOFF_MS * 2 ** Math.min(failures - 1, 30))
  return bound * (0.5 + random / 2)
}

export class Loop {
  readonly #options: LoopOptions
  #state: 'idle' | 'running' | 'stopped' = 'idle'
  /** Woken while running: once more. */
  #again = false
  #failures = 0
  #timer: NodeJS.Timeout | undefined
  #finished: Promise<void> = Promise.resolve()

  constructor(options: LoopOptions) {
    this.#options = options
  }

  /**
   * Runs now, or once more after the present run: any number of wakes cost at most one run more.
   * A wake does not shorten a backoff, so that hints cannot hammer a database in trouble.
   */
  wake(): void {
    if (this.#state === 'running') this.#again = true
    else if (this.#state === 'idle' && !(this.#failures > 0 && this.#timer !== undefined)) this.#start()
  }

  /** Like wake, and cuts a backoff short: for what a person or a new connection asks. */
  wakeNow(): void {
    if (this.#state === 'idle') this.#start()
    else this.wake()
  }

  /** What it failed at may work now: cuts a backoff short, and does nothing else. */
  retry(): void {
    if (this.#state === 'idle' && this.#failures > 0 && this.#timer !== undefined) this.#start()
  }

  /** Runs no more. Resolves when the present run has ended. */
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
    // Out of the caller's turn: all that is asked in one turn is done in one run.
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

  // Behind `await`, another call may have woken or stopped it.
  #isWoken(): boolean {
    return this.#again && !this.#isStopped()
  }

  #isStopped(): boolean {
    return this.#state === 'stopped'
  }
}
