/**
 * What is wanted, by whom, and until when: it follows from the schedule, and from the answers to calls
 * whose outcome is open by nature. What must be true of it is in checks.ts.
 */
import { shortened } from '../support/digest.js'
import { Broken } from './broken.js'
import type { Log } from './log.js'
import type { Outcome, ProcessTold } from './process.js'
import type { Call, Role } from './steps.js'

/** What an administrator types into a member. */
export const BY_HAND = 'by hand'

/** Large data, filled up. */
export function dataOf({ data, length = 0 }: Extract<Call, { readonly do: 'set' }>): string {
  return data.padEnd(length, 'x')
}

/** As much of data as tells it from others, for people. */
function shown(data = ''): string {
  return data.length > 60 ? `${data.slice(0, 60)}… (${data.length})` : data
}

type Ended = Extract<ProcessTold, { readonly kind: 'ended' }>

/** The database refuses, or the connection. */
const REFUSALS: ReadonlySet<string | undefined> = new Set(['SCHEMA', 'CONNECTION'])

export class MembershipModel {
  readonly process: ProcessModel
  /** Its process's role when it was created. */
  readonly role: Role
  readonly n: number
  readonly onLost: 'register-again' | 'stay-out'
  /** 'unsure': whether a call was aborted before it had registered, its answer will tell. */
  wants: 'in' | 'out' | 'unsure' = 'out'
  data = ''
  /** Told by its process when it was created. */
  id: string | undefined
  /** Since when nobody keeps it: its process died, or has closed its cluster. */
  endedMs = Infinity
  /** By token. `calls`: how many had been made before it. */
  readonly leases = new Map<number, { readonly calls: number; ended?: Ended | undefined }>()
  lease: number | undefined
  /** What it was last told to do, its data aside. */
  #told: Call | undefined
  /** When it was told to join, and when it had left, by turns or not. */
  readonly #goodbyes: { readonly atMs: number; readonly left: boolean }[] = []
  /** Not judged yet: the log may not tell of what happened a moment before them. */
  readonly #answers: { readonly call: Call; readonly outcome: Outcome; readonly atMs: number }[] = []

  constructor(process: ProcessModel, n: number, onLost: MembershipModel['onLost']) {
    this.process = process
    this.role = process.role
    this.n = n
    this.onLost = onLost
  }

  asked(call: Call): void {
    if (call.do === 'set') this.data = dataOf(call)
    else this.wants = ({ join: 'in', rejoin: 'in', leave: 'out', try: 'unsure' } as const)[call.do]
    if (call.do !== 'set') this.#told = call
    if (call.do !== 'set' && call.do !== 'leave') this.#goodbyes.push({ atMs: Date.now(), left: false })
  }

  /** Which calls may fail how. */
  answered(call: Call, outcome: Outcome, refused: boolean): void {
    const { code, overtaken } = outcome
    const who = `${call.do} of ${this.name}`
    if (refused && REFUSALS.has(code)) {
      // Whether it had been registered by then, and comes back, or gave up is not known here.
      if (!overtaken && this.wants === 'in') this.wants = 'unsure'
      return
    }
    // The answer may have been on its way when it was told to join again.
    if (call.do === 'leave' && code === undefined && !overtaken && this.#told === call)
      this.#goodbyes.push({ atMs: Date.now(), left: true })
    if (call.do === 'try' && this.wants === 'unsure') this.wants = code === 'ABORTED' ? 'out' : 'in'
    if (code !== undefined && !this.#mayFail(call, code, overtaken)) throw new Broken(1, `${who}: ${code}`)
    if (code === undefined && !overtaken) this.#answers.push({ call, outcome, atMs: Date.now() })
  }

  /** Promise 1: who was answered saw what was done, unless others had removed it by then. */
  judgeAnswers(log: Log): number {
    for (const { call, outcome, atMs } of this.#answers) {
      const { token, seenToken, seenData } = outcome
      const who = `${call.do} of ${this.name}`
      if (call.do === 'leave') {
        if (seenToken === undefined) continue
        throw new Broken(1, `${who}: its own snapshot still shows it, as ${seenToken}`, atMs)
      }
      if (token === undefined || (log.stay(token)?.left?.atMs ?? Infinity) <= atMs) continue
      if (call.do === 'set') {
        if (seenToken !== token || seenData === shortened(dataOf(call)) || seenData === BY_HAND) continue
        throw new Broken(1, `${who}: its own snapshot shows ${shown(seenData)}`, atMs)
      }
      if (seenToken === token) continue
      const what = `it has a lease with token ${token}, its own snapshot shows ${seenToken}`
      throw new Broken(1, `${who}: ${what}`, atMs)
    }
    return this.#answers.splice(0).length
  }

  /** Promise 8: whether it was born from an attempt that it had given up: it had left for good. */
  isGhost(joinedMs: number): boolean {
    return this.#goodbyes.findLast(({ atMs }) => atMs < joinedMs)?.left === true
  }

  #mayFail({ do: call }: Call, code: string, overtaken: boolean): boolean {
    if (code === 'CLOSED') return this.endedMs !== Infinity
    if (code === 'DEREGISTERED') return overtaken && call !== 'leave' && call !== 'set'
    if (code === 'LOST') return this.onLost === 'stay-out' && call !== 'leave' && call !== 'set'
    return code === 'ABORTED' && call === 'try'
  }

  /** Each lease begins once and ends once, and never are there two. */
  grantedLease({ token, calls }: Extract<ProcessTold, { kind: 'granted' }>): void {
    if (this.lease !== undefined) {
      throw new Broken(8, `${this.name} has a lease ${token} while ${this.lease} has not ended`)
    }
    this.lease = token
    for (const [other, lease] of this.leases) {
      if (this.onLost === 'stay-out' && other !== token && lease.calls === calls) {
        throw new Broken(8, `${this.name} was to stay out when it lost ${other}, and came back as ${token}`)
      }
    }
    this.leases.set(token, { calls })
  }

  endedLease(ended: Ended): void {
    const { token } = ended
    if (this.lease !== token) throw new Broken(8, `${this.name}: lease ${token} ended, it had ${this.lease}`)
    this.lease = undefined
    Object.assign(this.leases.get(token) ?? {}, { ended })
  }

  /** Whether it had a lease on that registration at that time. */
  relied(token: number, atMs: number): boolean {
    const lease = this.leases.get(token)
    if (lease === undefined || atMs >= this.endedMs) return false
    return lease.ended === undefined || lease.ended.atMs > atMs
  }

  get name(): string {
    return `membership ${this.n} of process ${this.process.number}`
  }
}

export class ProcessModel {
  readonly number: number
  readonly place: number
  readonly memberships: MembershipModel[] = []
  /** Its heartbeats that were answered. */
  readonly beats: { readonly fromMs: number; readonly untilMs: number }[] = []
  role: Role
  endedMs = Infinity

  constructor(number: number, place: number, role: Role) {
    this.number = number
    this.place = place
    this.role = role
  }

  get lives(): boolean {
    return this.endedMs === Infinity
  }

  /** Of its cluster as it is open now. */
  get open(): readonly MembershipModel[] {
    return this.memberships.filter(({ endedMs }) => endedMs === Infinity)
  }

  opened(role: Role): readonly MembershipModel[] {
    this.close()
    this.role = role
    const added = role.memberships.map(
      (onLost, n) => new MembershipModel(this, this.memberships.length + n, onLost),
    )
    this.memberships.push(...added)
    return added
  }

  close(atMs = Date.now()): void {
    for (const membership of this.open) Object.assign(membership, { endedMs: atMs, wants: 'out' })
  }

  end(atMs = Date.now()): void {
    this.endedMs = atMs
    this.close(atMs)
  }
}
