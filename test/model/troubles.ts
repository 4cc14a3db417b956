/**
 * What went wrong where, and when. Only this excuses the removal of a living member, or the end of a lease.
 * A lock is no excuse.
 *
 * Times are the wall clock's. The server, the processes and this one share a machine, and its clock.
 */
export interface Trouble {
  readonly what: string
  readonly place: number | 'everywhere'
  /** All connections of a process may have been gone, not merely silent. */
  readonly severs: boolean
  /** Calls may be rejected, with an error that says why. */
  readonly refuses?: boolean
  readonly fromMs: number
  untilMs: number
}

/** After a trouble a process backs off for a second at most, connects, and is heard. */
const RECOVERY_MS = 1_500
const NOTED_LATE_MS = 500

type Where = Pick<Trouble, 'what' | 'place'>

export class Troubles {
  readonly #all: Trouble[] = []

  /** From now on, until `end`. */
  begin(trouble: Where & Pick<Trouble, 'severs' | 'refuses'>): void {
    if (this.#present(trouble) === undefined) {
      this.#all.push({ ...trouble, fromMs: Date.now(), untilMs: Infinity })
    }
  }

  end(where: Where): void {
    const present = this.#present(where)
    if (present !== undefined) present.untilMs = Date.now()
  }

  /** For a while that is over. */
  add(trouble: Trouble): void {
    this.#all.push(trouble)
  }

  endAll(): void {
    for (const trouble of this.#all) trouble.untilMs = Math.min(trouble.untilMs, Date.now())
  }

  /** The longest time in a period during which nothing hindered the process at a place. */
  longestPeaceMs(place: number, fromMs: number, untilMs: number): number {
    let longestMs = 0
    let quietFromMs = fromMs
    for (const trouble of this.#at(place)) {
      if (trouble.fromMs >= untilMs) break
      longestMs = Math.max(longestMs, trouble.fromMs - quietFromMs)
      quietFromMs = Math.max(quietFromMs, trouble.untilMs + RECOVERY_MS)
    }
    return Math.max(longestMs, untilMs - quietFromMs)
  }

  /** Whether all connections of the process at a place may have been gone at that time. */
  isSevered(place: number, atMs: number): boolean {
    return this.#at(place).some(
      ({ severs, fromMs, untilMs }) => severs && fromMs <= atMs && atMs <= untilMs + RECOVERY_MS,
    )
  }

  /** Whether something was refused in that time, or what a process made of it may still be told. */
  refused(fromMs: number, untilMs: number): boolean {
    return this.#all.some(
      (trouble) =>
        trouble.refuses === true && trouble.fromMs < untilMs && trouble.untilMs + RECOVERY_MS > fromMs,
    )
  }

  /** With some patience for how late its return is noted. */
  serverWasAway(fromMs: number, untilMs: number): boolean {
    return this.#all.some(
      (trouble) =>
        trouble.what === AWAY && trouble.fromMs < untilMs && trouble.untilMs - NOTED_LATE_MS > fromMs,
    )
  }

  /** How long the machine stood still for everybody since then. */
  lostMs(fromMs: number): number {
    return this.#all
      .filter(({ what, untilMs }) => what === SLOW && untilMs > fromMs)
      .reduce((sum, trouble) => sum + trouble.untilMs - Math.max(trouble.fromMs, fromMs), 0)
  }

  #present({ what, place }: Where): Trouble | undefined {
    return this.#all.find(
      (trouble) => trouble.what === what && trouble.place === place && trouble.untilMs === Infinity,
    )
  }

  #at(place: number): Trouble[] {
    return this.#all
      .filter((trouble) => trouble.place === place || trouble.place === 'everywhere')
      .sort((a, b) => a.fromMs - b.fromMs)
  }
}

/** Everybody has a full ttl after it: no excuse for a removal, only for the end of a lease. */
export const AWAY = 'the server was away'

/** The machine has other things to do. */
export const SLOW = 'the machine was slow'
