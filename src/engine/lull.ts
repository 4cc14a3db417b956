/**
 * Anybody who may connect can send hints. After one that turned out to say nothing, the next one has to wait for a
 * lull, which doubles each time. It ends with the first change that is found. What others ask for never waits.
 */

/** After the first hint that said nothing. Hints of one's own changes do, where those were seen already. */
const FIRST_LULL_MS = 2
/** The longest, where polls are rarer. */
const MAX_LULL_MS = 5_000

export class Lull {
  readonly #maxMs: number
  #ms = 0
  #endsMs = -Infinity

  constructor(pollMs: number) {
    // Where nobody polls, hints are all there is.
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
