/**
 * What the owner of a membership wants, what is believed to be in the database, and the next step.
 *
 *   wants in, no row            -> register    (floor: the last token known, so a retry finds its own row)
 *   has a row, wants out        -> deregister  (that row, by its token)
 *   has a row with other data   -> set data
 *
 * Nothing else is remembered: whatever goes wrong in between, the next step is derived again. What a
 * lost reply may have left behind shows up in a snapshot (`compare`) and is taken from there: an unknown
 * row is adopted and then deregistered, wrong data is sent again. No clock, no timer, no waiting here.
 */
import type { Member } from './member.js'

export type Step = 'deregister' | 'register' | 'set data'

interface Row {
  readonly token: number
  /** Which of the versions of the data it carries; UNKNOWN: another one. */
  version: number
  /** A refresh that began after its commit has ended. */
  shown: boolean
  /** Which version that refresh has shown, or a newer one. */
  shownVersion?: number
  /** Given up: to be deregistered, whatever is wanted afterwards. */
  leaving: boolean
}

/** What is known of a row at a moment. */
export interface Known {
  /** Counts what was heard about it. */
  readonly news: number
  /** If it is to stay. */
  readonly token: number | undefined
  readonly version: number
}

const UNKNOWN = -1

export class MembershipState {
  #wanted = false
  #version = 0
  #row: Row | undefined
  #floor = 0
  #attempt: 'none' | 'sent' | 'unanswered' = 'none'
  /** Some attempt since the last that was answered may yet have left a row. */
  #uncertain = false
  /** What the present attempt registers was given up meanwhile. */
  #doomed = false
  /** This process's snapshot is known not to show it. */
  #outShown = true
  #news = 0

  get wanted(): boolean {
    return this.#wanted
  }

  /** Counts the values that the data has had. */
  get version(): number {
    return this.#version
  }

  get known(): Known {
    return { news: this.#news, token: this.keptToken, version: this.#row?.version ?? UNKNOWN }
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
    this.#outShown = false
  }

  registerFailed(outcome: 'nothing happened' | 'unanswered'): void {
    this.#news += 1
    this.#uncertain ||= outcome === 'unanswered'
    this.#attempt = this.#uncertain ? 'unanswered' : 'none'
  }

  /** Carrying this version of the data, unless an earlier attempt has left the row. */
  registered(token: number, version: number): void {
    this.#news += 1
    const carried = this.#uncertain ? UNKNOWN : version
    this.#row = { token, version: carried, shown: false, leaving: this.#doomed || !this.#wanted }
    this.#floor = Math.max(this.#floor, token)
    this.#answered()
  }

  dataSet(token: number, version: number): void {
    if (this.#row?.token !== token) return
    this.#news += 1
    this.#row.version = version
  }

  /** We removed it. */
  deregistered(token: number): void {
    if (this.#row?.token !== token) return
    this.#news += 1
    this.#row = undefined
  }

  /** Others did. False where that is no news, or was to happen anyway. */
  lost(token: number): boolean {
    if (this.#row?.token !== token) return false
    const { leaving } = this.#row
    this.#news += 1
    this.#row = undefined
    return !leaving
  }

  /**
   * A refresh has ended that began when this was known, and found this member. Where more was heard since,
   * it shows no more than what was known, and nothing of another registration.
   */
  shown(seen: Member | undefined, known = this.known): 'all' | 'some' | 'nothing' {
    if (known.news !== this.#news) {
      if (known.token === undefined || known.token !== this.keptToken) return 'nothing'
      this.#showsAtLeast(known.version)
      return 'some'
    }
    if (this.#attempt === 'unanswered' && !this.#wanted) {
      this.compare(seen, undefined)
      this.#answered()
    }
    if (this.#row !== undefined) this.#showsAtLeast(this.#row.version)
    else if (this.#attempt === 'none') {
      this.#outShown = true
      this.#doomed = false
    }
    return 'all'
  }

  /**
   * Compares with a member of this id in a snapshot, or the lack of one. 'missing': a heartbeat should
   * find out what became of the row. 'superseded': a row of ours that we do not know has taken its place.
   */
  compare(
    seen: Member | undefined,
    data: string | undefined,
  ): 'missing' | 'superseded' | 'changed' | 'as known' {
    // The answer, or the retry, will tell.
    if (this.#attempt === 'sent' || (this.#attempt === 'unanswered' && this.#wanted)) return 'as known'
    if (seen === undefined) return this.#row?.shown === true && !this.#row.leaving ? 'missing' : 'as known'
    if (seen.token === this.#row?.token) {
      if (seen.data === data || this.#row.version !== this.#version) return 'as known'
      this.#row.version = UNKNOWN
      this.#row.shownVersion = UNKNOWN
      return 'changed'
    }
    // An older one will have gone from the next snapshot; or is about to be superseded.
    if (seen.token < (this.#row?.token ?? 0) || (this.#row === undefined && this.#wanted)) return 'as known'
    this.#floor = Math.max(this.#floor, seen.token)
    this.#row = { token: seen.token, version: UNKNOWN, shown: true, leaving: true }
    return 'superseded'
  }

  #showsAtLeast(version: number): void {
    if (this.#row === undefined) return
    this.#row.shown = true
    this.#row.shownVersion = Math.max(version, this.#row.shownVersion ?? UNKNOWN)
  }

  #answered(): void {
    this.#attempt = 'none'
    this.#uncertain = false
    this.#doomed = false
  }
}
