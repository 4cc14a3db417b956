/** What a reader remembers of the history: the positions of its snapshots, and deltas that came too early. */
import type { Report } from './report.js'
import { type Delta, type Position, samePosition } from './store.js'

const MAX_POSITIONS = 1_000
const MAX_EARLY = 100
const MAX_EARLY_CHARACTERS = 4_000_000

/** The newest thousand positions that the snapshot was at. */
export class Passed {
  readonly #stamps = new Map<number, string>()
  #newest = 0

  add({ revision, stamp }: Position): void {
    this.#stamps.set(revision, stamp)
    this.#newest = revision
    if (this.#stamps.size <= MAX_POSITIONS) return
    for (const oldest of this.#stamps.keys()) {
      this.#stamps.delete(oldest)
      break
    }
  }

  has({ revision, stamp }: Position): boolean {
    return this.#stamps.get(revision) === stamp
  }

  /** The position is not above the newest, nor of another history as far as is remembered. */
  includes({ revision, stamp }: Position): boolean {
    return revision <= this.#newest && (this.#stamps.get(revision) ?? stamp) === stamp
  }

  clear(): void {
    this.#stamps.clear()
    this.#newest = 0
  }
}

/** A delta, and where it comes from: an announcement, or the answer to a write of this process. */
export interface ReceivedDelta extends Delta {
  readonly source: 'announcement' | 'answer'
}

/** Deltas that begin at a position which the snapshot has not reached yet. */
export class Early<D extends Delta = Delta> {
  readonly #deltas = new Map<number, { readonly delta: D; readonly from: Position; readonly n: number }>()
  #count = 0
  #characters = 0

  get size(): number {
    return this.#deltas.size
  }

  /** How many deltas were ever added. */
  get count(): number {
    return this.#count
  }

  /** Returns false if there is no room. */
  add(delta: D, from: Position): boolean {
    this.#delete(from.revision)
    const characters = charactersOf(delta)
    if (this.size >= MAX_EARLY || this.#characters + characters > MAX_EARLY_CHARACTERS) return false
    this.#characters += characters
    this.#count += 1
    this.#deltas.set(from.revision, { delta, from, n: this.#count })
    return true
  }

  /** Takes out the delta that begins at this position. Drops deltas that lead no further than it. */
  next(position: Position): D | undefined {
    const entry = this.#deltas.get(position.revision)
    for (const [revision, { delta }] of this.#deltas) {
      if (delta.to.revision <= position.revision) this.#delete(revision)
    }
    if (entry === undefined || !samePosition(entry.from, position)) return undefined
    this.#delete(position.revision)
    return entry.delta
  }

  /** Drops the deltas that were added up to this `count`. */
  dropUpTo(count: number): void {
    for (const [revision, { n }] of this.#deltas) if (n <= count) this.#delete(revision)
  }

  #delete(revision: number): void {
    const entry = this.#deltas.get(revision)
    if (entry === undefined) return
    this.#characters -= charactersOf(entry.delta)
    this.#deltas.delete(revision)
  }
}

function charactersOf({ changes }: Delta): number {
  return changes.reduce((characters, { member: { data } }) => characters + data.length + 100, 0)
}

export function reportDelta(report: Report, { source, to, changes }: ReceivedDelta): void {
  report.publish('delta', () => {
    const counts = { joined: 0, updated: 0, left: 0 }
    for (const { kind } of changes) counts[kind] += 1
    return { source, revision: to.revision, ...counts }
  })
}
