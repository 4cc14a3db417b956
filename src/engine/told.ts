/**
 * Where this process was told that the cluster is: by an answer, an announcement or a query. What the database has said
 * once, it must go on to have. So whoever asks it looks first at what was told (`look`). If the answer shows that the
 * database does not have one of these positions, it has lost commits.
 *
 * The newest position alone would not do: after a failover, it may be of the new history, and the older one of the old.
 * So a position is remembered until a query has found it, or until a delta leads on from it.
 */
import { monotonicMs } from '../kit/clock.js'
import { type Position, samePosition } from './store.js'

/** When a question was asked, and what had been told by then. */
export interface Look {
  readonly startedMs: number
  readonly told: readonly Position[]
}

const MAX_POSITIONS = 8

export class Told {
  #positions: readonly Position[]

  constructor(position?: Position) {
    this.#positions = position === undefined ? [] : [position]
  }

  look(): Look {
    return { startedMs: monotonicMs(), told: this.#positions }
  }

  /** `from`: a delta leads from there, so both are of one history, and the later one stands for both. */
  add({ revision, stamp }: Position, from?: Position): void {
    if (revision === 0) return
    const position = { revision, stamp }
    const others = this.#positions.filter(
      (one) => !samePosition(one, position) && (from === undefined || !samePosition(one, from)),
    )
    this.#positions = [...others.slice(0, 1), ...others.slice(1).slice(2 - MAX_POSITIONS), position]
  }

  /** An answer has shown that the database has what had been told before it. The cluster is at `head`. */
  settle({ told }: Look, head: Position): void {
    this.#positions = this.#positions.filter((position) => !told.includes(position))
    this.add(head)
  }

  /** Some of it was lost, and this is reported: one report is for all that was told until now. */
  restart(head: Position): void {
    this.#positions = []
    this.add(head)
  }
}

/** Which of the positions the database does not have. `stampAt`: of the event in its log, if that is still there. */
export function lostOf(
  told: readonly Position[],
  head: Position,
  stampAt: (revision: number) => string | undefined = () => undefined,
): Position | undefined {
  return told.findLast(({ revision, stamp }) => {
    if (revision >= head.revision) return revision > head.revision || stamp !== head.stamp
    return (stampAt(revision) ?? stamp) !== stamp
  })
}
