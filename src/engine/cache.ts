/**
 * The cached snapshot, and how deltas move it on.
 *
 * A delta comes from an announcement, or from the answer to this process's own write. It is applied if it begins at
 * the position of the snapshot: revision and stamp. If it begins later, it is kept for a moment, because an answer
 * often overtakes announcements. If the missing ones do not come, the cache asks for a refresh.
 */
import { Early, Passed, type ReceivedDelta } from './deltas.js'
import type { Cached } from './refresh.js'
import { snapshotAfter } from './snapshot.js'
import type { Position } from './store.js'

export interface CacheOptions {
  /** A delta was applied: something happened to these members. */
  readonly onDelta: (ids: ReadonlySet<string>, delta: ReceivedDelta) => void
  /** A delta does not fit the snapshot: one of the two is wrong. */
  readonly onMisfit: () => void
  /** Changes are missing, and have to be read. */
  readonly onGap: () => void
}

/** How long to wait for an announcement that was overtaken, before a refresh. */
const GAP_MS = 20

export class Cache {
  readonly #options: CacheOptions
  #cached: Cached | undefined
  readonly #passed = new Passed()
  readonly #early = new Early<ReceivedDelta>()
  #gapTimer: NodeJS.Timeout | undefined

  constructor(options: CacheOptions) {
    this.#options = options
  }

  get cached(): Cached | undefined {
    return this.#cached
  }

  /** How many deltas have come too early so far. */
  get earlyCount(): number {
    return this.#early.count
  }

  /** The snapshot is at this position, or has been. */
  hasPassed(position: Position): boolean {
    return this.#cached !== undefined && this.#passed.has(position)
  }

  /** The snapshot is at this position or after it, in the same history as far as that is remembered. */
  includes(position: Position): boolean {
    return this.#cached !== undefined && this.#passed.includes(position)
  }

  /** The snapshot is at this revision or after it, in any history. */
  isBehind({ revision }: Position): boolean {
    return this.#cached !== undefined && revision <= this.#cached.position.revision
  }

  take(delta: ReceivedDelta): void {
    if (delta.from === undefined || this.isBehind(delta.to)) {
      this.#options.onGap()
      return
    }
    if (!this.#early.add(delta, delta.from)) this.#options.onGap()
    this.applyEarly()
  }

  /**
   * Takes the outcome of a refresh that began at `before`. Nothing that is remembered counts in another history. Nor do
   * the positions where deltas meanwhile led: nobody has asked whether they are of the history of the outcome.
   */
  replace({ snapshot, position }: Cached, before: Cached | undefined, otherHistory: boolean): void {
    if (otherHistory || this.#cached !== before) this.#passed.clear()
    if (otherHistory) this.#early.dropUpTo(this.#early.count)
    this.#move({ snapshot, position })
  }

  /** Drops early deltas from before a refresh began: those that do not fit after it never will. */
  dropEarly(count: number): void {
    this.#early.dropUpTo(count)
  }

  /** Applies the kept deltas that begin at the position of the snapshot. */
  applyEarly(): void {
    if (this.#cached === undefined) return
    for (;;) {
      const { snapshot, position }: Cached = this.#cached
      const delta = this.#early.next(position)
      if (delta === undefined) break
      const after = snapshotAfter(snapshot, delta.to, delta.changes)
      if (after === undefined) {
        this.#options.onMisfit()
        break
      }
      this.#move({ snapshot: after, position: delta.to })
      this.#options.onDelta(new Set(delta.changes.map(({ member }) => member.id)), delta)
    }
    if (this.#early.size > 0) this.awaitGap()
  }

  /** The cluster is at this position, which the snapshot has not been at. Perhaps announcements are on their way. */
  miss(position: Position): void {
    if (this.#cached !== undefined && !this.isBehind(position)) this.awaitGap()
    else this.#options.onGap()
  }

  /** The missing changes may be on their way: asks for a refresh only if they do not come. */
  awaitGap(): void {
    const { position } = this.#cached ?? {}
    this.#gapTimer ??= setTimeout(() => {
      this.#gapTimer = undefined
      if (this.#cached?.position === position) this.#options.onGap()
      else if (this.#early.size > 0) this.awaitGap()
    }, GAP_MS)
  }

  close(): void {
    clearTimeout(this.#gapTimer)
  }

  #move(cached: Cached): void {
    this.#passed.add(cached.position)
    this.#cached = cached
  }
}
