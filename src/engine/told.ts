/**
 * Where this process was told that the cluster is: by an answer, an announcement or a query. What the database has said
 * once, it must go on to have. So whoever asks it looks first at what was told (`look`). If the answer shows that the
 * database does not have one of these positions, it has lost commits.
 *
 * The newest position alone would not do: after a failover, it may be of the new history, and the older one of the old.
 * So a position is remembered until a query has found it, or until the snapshot has gone on from it by a delta, which
 * shows that the next one is of the same history.
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
  /** Oldest first. */
  #positions: readonly Position[]

  constructor(position?: Position) {
    this.#positions = position === undefined ? [] : [position]
  }

  look(): Look {
    return { startedMs: monotonicMs(), told: this.#positions }
  }

  /** An older one than the newest is no news: an answer often comes after announcements of later changes. */
  add({ revision, stamp }: Position): void {
    if (revision <= (this.#positions.at(-1)?.revision ?? 0)) return
    const [oldest, ...rest] = this.#positions
    this.#positions = [...(oldest ? [oldest] : []), ...rest.slice(2 - MAX_POSITIONS), { revision, stamp }]
  }

  /** An answer tells where the cluster is. Returns false if that shows that some of what had been told is lost. */
  hear({ told }: Look, position: Position): boolean {
    if (lostOf(told, position) !== undefined) return false
    this.add(position)
    return true
  }

  /** The snapshot has gone on from one of them to another. */
  follow(from: Position, to: Position): void {
    this.#positions = this.#positions.filter((position) => !samePosition(position, from))
    this.add(to)
  }

  /** A query has found what had been told before it, or that it is lost. The cluster is at `head`. */
  settle({ told }: Look, head: Position): void {
    this.#positions = this.#positions.filter((position) => !told.includes(position))
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
