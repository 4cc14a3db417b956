/**
 * What the owner of a membership wants, what is believed to be in the database, and the next step.
 *
 *   wants in, no row            -> register    (floor: the last token known, so a retry finds its own row)
 *   has a row, wants out        -> deregister  (that row, by its token)
 *   has a row with other data   -> set data
 *
 * Nothing else is remembered: whatever goes wrong in between, the next step is derived again. What a
 * lost reply may have left behind shows up in a snapshot (`shown`) and is taken from there: an unknown
 * row is adopted and then deregistered, wrong data is sent again. No clock, no timer, no waiting here.
 *
 * Each answer tells a position of the cluster. A snapshot from before it knows less than we do, and says nothing.
 */
import type { Member } from '../../api/member.js'
import type { Position } from '../store.js'

export type Step = 'deregister' | 'register' | 'set data'

interface Row {
  readonly token: number
  /** Which of the versions of the data it carries; UNKNOWN: another one. */
  version: number
  /** A snapshot has shown it. */
  shown: boolean
  /** The newest version that a snapshot has shown. */
  shownVersion?: number
  /** Given up: to be deregistered, whatever is wanted afterwards. */
  leaving: boolean
}

const UNKNOWN = -1

export class Belief {
  #wanted = false
  #version = 0
  #row: Row | undefined
  #floor = 0
  #attempt: 'none' | 'sent' | 'unanswered' = 'none'
  /** Some attempt since the last that was answered may yet have left a row. */
  #uncertain = false
  /** What the present attempt registers was given up meanwhile. */
  #doomed = false
  #attempts = 0
  /** This process's snapshot is known not to show it. */
  #outShown = true
  #at: Position | undefined

  get wanted(): boolean {
    return this.#wanted
  }

  /** Counts the values that the data has had. */
  get version(): number {
    return this.#version
  }

  /** A snapshot shows what is known when it is here, or further. undefined: any does. */
  get at(): Position | undefined {
    return this.#at
  }

  /**
   * The number of the last attempt, where only a refresh can tell what is there: it was not answered, and nobody
   * wants it any more; or no answer has ever told a position.
   */
  get doubtfulAttempt(): number | undefined {
    if (this.#wanted || this.#row !== undefined || this.isOutAndShown) return undefined
    return this.#attempt === 'unanswered' || this.#at === undefined ? this.#attempts : undefined
  }

  /** The last token known. */
  get floor(): number {
    return this.#floor
  }

  /** Of the row, whatever is wanted. */
  get token(): number | undefined {
    return this.#row?.token
  }

  /** Of the row, if it is to stay. */
  get keptToken(): number | undefined {
    return this.#row?.leaving === true ? undefined : this.#row?.token
  }

  /** This process's snapshot shows the registration that is to stay, or did. */
  get isShown(): boolean {
    return this.#row?.shown === true && !this.#row.leaving
  }

  /** The version that this process's snapshot shows, or did. */
  get shownVersion(): number | undefined {
    return this.#row?.shownVersion
  }

  /** Nothing is registered, nor may turn out to be. */
  get isOut(): boolean {
    return this.#row === undefined && this.#attempt === 'none'
  }

  get isOutAndShown(): boolean {
    return this.isOut && this.#outShown
  }

  nextStep(): Step | undefined {
    if (this.#row === undefined) return this.#wanted ? 'register' : undefined
    if (this.#row.leaving || !this.#wanted) return 'deregister'
    return this.#row.version === this.#version ? undefined : 'set data'
  }

  want(): void {
    this.#wanted = true
  }

  /** What is there, or on its way, has to go, also when it is wanted again afterwards. */
  giveUp(): void {
    this.#wanted = false
    this.#doomed = this.#attempt !== 'none'
    if (this.#row !== undefined) this.#row.leaving = true
  }

  dataChanged(): void {
    this.#version += 1
  }

  registerSent(): void {
    this.#attempt = 'sent'
    this.#attempts += 1
    this.#outShown = false
  }

  registerFailed(outcome: 'nothing happened' | 'unanswered'): void {
    this.#uncertain ||= outcome === 'unanswered'
    this.#attempt = this.#uncertain ? 'unanswered' : 'none'
  }

  /** Carrying this version of the data, unless an earlier attempt has left the row. */
  registered(token: number, version: number, at: Position): void {
    this.#at = at
    const carried = this.#uncertain ? UNKNOWN : version
    this.#row = { token, version: carried, shown: false, leaving: this.#doomed || !this.#wanted }
    this.#floor = Math.max(this.#floor, token)
    this.#answered()
  }

  dataSet(token: number, version: number, at: Position): void {
    if (this.#row?.token !== token) return
    this.#at = at
    this.#row.version = version
  }

  /** We removed it. */
  deregistered(token: number, at: Position): void {
    if (this.#row?.token !== token) return
    this.#at = at
    this.#row = undefined
  }

  /** Someone else removed it. False if we already knew, or were leaving ourselves. */
  lost(token: number, at: Position): boolean {
    if (this.#row?.token !== token) return false
    const { leaving } = this.#row
    this.#at = at
    this.#row = undefined
    return !leaving
  }

  /** The database has another history now: what it has there of us may be anything. */
  historyLost(): void {
    this.#at = undefined
  }

  /**
   * Compares with the member of this id in a snapshot that is at `at` or further, or the lack of one. 'missing':
   * a heartbeat should find out what became of the row. 'superseded': a row of ours that we do not know has
   * taken its place.
   */
  shown(seen: Member | undefined, data: string): 'missing' | 'superseded' | 'changed' | 'as known' {
    // The answer, or the retry, will tell.
    if (this.#attempt === 'sent' || (this.#attempt === 'unanswered' && this.#wanted)) return 'as known'
    if (seen === undefined) {
      if (this.#row !== undefined) return this.#row.leaving ? 'as known' : 'missing'
      if (this.#attempt === 'none') this.#seenOut()
      return 'as known'
    }
    if (seen.token === this.#row?.token) {
      this.#row.shown = true
      if (seen.data !== data && this.#row.version === this.#version) {
        this.#row.version = UNKNOWN
        this.#row.shownVersion = UNKNOWN
        return 'changed'
      }
      this.#row.shownVersion = Math.max(this.#row.version, this.#row.shownVersion ?? UNKNOWN)
      return 'as known'
    }
    // An older one will have gone from the next snapshot; or is about to be superseded.
    if (seen.token < (this.#row?.token ?? 0) || (this.#row === undefined && this.#wanted)) return 'as known'
    this.#floor = Math.max(this.#floor, seen.token)
    this.#row = { token: seen.token, version: UNKNOWN, shown: true, leaving: true }
    return 'superseded'
  }

  /** A refresh that began after the end of this attempt has found the member of this id, or none. */
  lookedFor(seen: Member | undefined, attempt: number): void {
    if (this.doubtfulAttempt !== attempt) return
    if (seen !== undefined) this.shown(seen, '')
    this.#answered()
    if (seen === undefined && this.#row === undefined) this.#seenOut()
  }

  #seenOut(): void {
    this.#outShown = true
    this.#doomed = false
  }

  #answered(): void {
    this.#attempt = 'none'
    this.#uncertain = false
    this.#doomed = false
  }
}
