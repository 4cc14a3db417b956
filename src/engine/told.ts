/**
 * The newest position of the cluster that this process was told of: by an answer, an announcement or a query. What the
 * database has said once, it must go on to have. So whoever asks it looks first at what was told (`look`), and compares
 * the answer with that (`hear`). If the answer is not as far, or has another stamp there, the database has lost commits.
 */
import { monotonicMs } from '../kit/clock.js'
import type { Position, Reading } from './store.js'

/** When a question was asked, and what had been told by then. */
export interface Look {
  readonly startedMs: number
  readonly told: Position | undefined
}

export class Told {
  #position: Position | undefined

  constructor(position?: Position) {
    this.#position = position
  }

  look(): Look {
    return { startedMs: monotonicMs(), told: this.#position }
  }

  add(position: Position): void {
    if (position.revision > (this.#position?.revision ?? 0)) this.#position = position
  }

  /** Returns false if the answer shows that the database does not have what had been told before the question. */
  hear({ told }: Look, { revision, stamp }: Position, history: Reading['history'] = 'unknown'): boolean {
    if (told !== undefined) {
      if (revision < told.revision || history === 'other') return false
      if (revision === told.revision && stamp !== told.stamp) return false
    }
    this.add({ revision, stamp })
    return true
  }

  /** The database has lost this position, and is at another. What was told after the loss counts if it is newer. */
  replace(lost: Position, by: Position): void {
    if (this.#position === lost) this.#position = undefined
    this.add(by)
  }
}
