/**
 * Slows down hints that say nothing, because anybody who can connect can send hints. If a refresh that only a hint
 * asked for finds no change, the next hint has to wait for a lull. The lull doubles each time, and ends with the first
 * change that is found. Nothing but hints ever waits for it.
 */

/** The first lull. Short, because hints of this process's own changes often say nothing: it has seen them already. */
const FIRST_LULL_MS = 2
/** The longest lull, if pollMs is longer. */
const MAX_LULL_MS = 5_000

export class Lull {
  readonly #maxMs: number
  #ms = 0
  #endsMs = -Infinity

  constructor(pollMs: number) {
    // Without polls, only hints tell of changes: no lull.
    this.#maxMs = pollMs === Infinity ? 0 : Math.min(pollMs, MAX_LULL_MS)
  }

  get endsMs(): number {
    return this.#endsMs
  }

  /** A refresh has found a change. */
  end(nowMs: number): void {
    this.#ms = 0
    this.#endsMs = nowMs
  }

  /** A refresh that only hints had asked for has found nothing. */
  lengthen(nowMs: number): void {
    this.#ms = Math.min(this.#ms * 2 || FIRST_LULL_MS, this.#maxMs)
    this.#endsMs = nowMs + this.#ms
  }
}
