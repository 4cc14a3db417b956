/**
 * What the owner of a membership wants, what is believed to be in the database, and the next step.
 *
 *   wants in, no row            -> register    (floor: the last token known; a retry finds the first attempt's row)
 *   has a row, wants out        -> deregister  (that row, by its token)
 *   has a row with other data   -> set data
 *
 * Nothing else is remembered: whatever goes wrong in between, the next step is derived again. If the answer of an
 * attempt was lost, a snapshot shows what the attempt has left (`compare`): an unknown row is adopted and then
 * deregistered, and wrong data is sent again. There is no clock, no timer and no waiting here.
 *
 * Each answer tells a position of the cluster. A snapshot from before that position is older than the answer, and must
 * not be compared.
 */
import type { Member } from '../../api/member.js'
import type { Position } from '../store.js'

export type Step = 'deregister' | 'register' | 'set data'

interface Row {
  readonly token: number
  /** The version of the data that the row has; UNKNOWN: perhaps none of them. */
  version: number
  /** A snapshot has shown it. */
  shown: boolean
  /** The newest version that a snapshot has shown. */
  shownVersion?: number
  /** The row was given up: it must be deregistered, even if the owner wants in again. */
  leaving: boolean
}

const UNKNOWN = -1

export class Belief {
  #wanted = false
  #version = 0
  #row: Row | undefined
  #floor = 0
  #attempt: 'none' | 'sent' | 'unanswered' = 'none'
  /** An attempt was not answered, and no later one was either: there may be a row. */
  #uncertain = false
  /** The owner gave up during the present attempt: what it registers must be deregistered. */
  #doomed = false
  #attempts = 0
  /** This process's snapshot shows that the membership is out. */
  #outShown = true
  #at: Position | undefined

  get wanted(): boolean {
    return this.#wanted
  }

  /** Counts the values that the data has had. */
  get version(): number {
    return this.#version
  }

  /** The position of the last answer: only a snapshot there or after it can be compared. undefined: any can. */
  get at(): Position | undefined {
    return this.#at
  }

  /**
   * The number of the last attempt, if the owner wants out and only a refresh can tell whether there is a row: the
   * attempt was not answered, or there is no position of an answer to compare at.
   */
  get doubtfulAttempt(): number | undefined {
    if (this.#wanted || this.#row !== undefined || this.isOutAndShown) return undefined
    return this.#attempt === 'unanswered' || this.#at === undefined ? this.#attempts : undefined
  }

  /** The last token known: the highest that an answer or a snapshot has told for this id. */
  get floor(): number {
    return this.#floor
  }

  /** The token of the row, even if the row is to be deregistered. */
  get token(): number | undefined {
    return this.#row?.token
  }

  /** The token of the row, if the row is to stay. */
  get keptToken(): number | undefined {
    return this.#row?.leaving === true ? undefined : this.#row?.token
  }

  /** This process's snapshot shows, or has shown, the registration that is to stay. */
  get isShown(): boolean {
    return this.#row?.shown === true && !this.#row.leaving
  }

  /** The newest version of the data that this process's snapshot has shown. */
  get shownVersion(): number | undefined {
    return this.#row?.shownVersion
  }

  /** Nothing is registered, and no attempt is without an answer. */
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

  /** A row that is there or on its way must be deregistered, even if the owner wants in again. */
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

  /** The row has this version of the data, unless an earlier attempt has left it. */
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

  /** We removed the row. */
  deregistered(token: number, at: Position): void {
    if (this.#row?.token !== token) return
    this.#at = at
    this.#row = undefined
  }

  /** Someone else removed the row. Returns false if we already knew, or were leaving ourselves. */
  lost(token: number, at: Position): boolean {
    if (this.#row?.token !== token) return false
    const { leaving } = this.#row
    this.#at = at
    this.#row = undefined
    return !leaving
  }

  /** The database has another history now: any row of ours may be there, and old positions do not count. */
  historyLost(): void {
    this.#at = undefined
  }

  /**
   * Compares with a snapshot that is at `at` or after it. `seen`: its member of this id, if there is one. Returns
   * 'missing': a heartbeat should find out what became of the row. 'superseded': an unknown row of ours has taken its
   * place. 'changed': the row has other data than we sent.
   */
  compare(seen: Member | undefined, data: string): 'missing' | 'superseded' | 'changed' | 'as known' {
    // The answer to the attempt, or to its retry, will tell.
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
    // An older row will be gone from a later snapshot. Or the next attempt to register is about to supersede the row.
    if (seen.token < (this.#row?.token ?? 0) || (this.#row === undefined && this.#wanted)) return 'as known'
    this.#floor = Math.max(this.#floor, seen.token)
    this.#row = { token: seen.token, version: UNKNOWN, shown: true, leaving: true }
    return 'superseded'
  }

  /** A refresh that began after the end of this attempt has found this member of our id, or none. */
  lookedFor(seen: Member | undefined, attempt: number): void {
    if (this.doubtfulAttempt !== attempt) return
    if (seen !== undefined) this.compare(seen, '')
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
