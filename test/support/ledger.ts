/** A cluster in memory, as far as refreshes see it: its members, its log, and servers that have lost some of it. */
import type { Member } from '../../src/api/member.js'
import type { Cached } from '../../src/engine/refresh.js'
import { snapshotOf } from '../../src/engine/snapshot.js'
import type {
  ChangesReading,
  Delta,
  MemberChange,
  MembersReading,
  Position,
  Reading,
} from '../../src/engine/store.js'
import { lostOf } from '../../src/engine/told.js'

interface Entry {
  readonly position: Position
  readonly change: MemberChange
}

export type Action = 'change' | 'toggle' | 'replace'

/** A cluster that hands out few rows at a time, and that remembers what it was at each position, in each history. */
export class Ledger {
  readonly states = new Map<string, readonly Member[]>()
  readonly #rows: number
  /** Stamps of servers with different names are different. */
  readonly #name: string
  #members = new Map<string, Member>()
  #log: Entry[] = []
  #trimmed = 0
  #stamps = 0
  #lastToken = 0
  failing = false

  constructor(rows: number, name = 'stamp') {
    this.#rows = rows
    this.#name = name
  }

  get head(): Position {
    return this.#log.at(-1)?.position ?? { revision: 0, stamp: '' }
  }

  get members(): readonly Member[] {
    return [...this.#members.values()].sort((a, b) => a.token - b.token)
  }

  get cached(): Cached {
    return { position: this.head, snapshot: snapshotOf(this.head, this.members) }
  }

  has({ revision, stamp }: Position): boolean {
    return revision === 0 || this.#log[revision - 1]?.position.stamp === stamp
  }

  /** One transaction: each id joins, changes, or leaves, or leaves and joins again. */
  change(actions: readonly (readonly [string, Action])[], data = ''): Delta {
    const from = this.head
    const stamp = `${this.#name} ${String(++this.#stamps)}`
    for (const [id, action] of actions) {
      const present = this.#members.get(id)
      if (present !== undefined && action === 'change')
        this.#note(stamp, 'updated', { ...present, data: stamp + data })
      else {
        if (present !== undefined) this.#note(stamp, 'left', { ...present, data: '' })
        if (present === undefined || action === 'replace') {
          const token = Math.max(this.#lastToken, this.head.revision) + 1
          this.#lastToken = token
          this.#note(stamp, 'joined', { id, token, data: '', registeredAt: '' })
        }
      }
    }
    this.states.set(JSON.stringify(this.head), this.members)
    return { from, to: this.head, changes: this.#log.slice(from.revision).map(({ change }) => change) }
  }

  trim(): void {
    this.#trimmed = this.#log.length
  }

  /** To a server that lost the last transactions. */
  failOver(lost: number): void {
    const stamps = [...new Set(this.#log.map(({ position }) => position.stamp))]
    const kept = new Set(stamps.slice(0, Math.max(0, stamps.length - lost)))
    this.#log = this.#log.filter(({ position }) => kept.has(position.stamp))
    this.#trimmed = Math.min(this.#trimmed, this.#log.length)
    this.#lastToken = Math.max(0, ...this.#log.map(({ change }) => change.member.token))
    this.#members = new Map(
      (this.states.get(JSON.stringify(this.head)) ?? []).map((member) => [member.id, member]),
    )
  }

  /** A standby that is promoted without the last transactions, while this server may live on. */
  promoted(name: string, lost: number): Ledger {
    const standby = new Ledger(this.#rows, name)
    standby.#log = [...this.#log]
    standby.#trimmed = this.#trimmed
    for (const [position, members] of this.states) standby.states.set(position, members)
    standby.failOver(lost)
    return standby
  }

  async readChanges(since: Position, told: readonly Position[], upTo = Infinity): Promise<ChangesReading> {
    const reading = await this.#answer(since, told)
    const entries =
      reading.history === 'same' ? this.#log.slice(since.revision, upTo).slice(0, this.#rows) : []
    const whole = entries.length === 0 || since.revision >= this.#trimmed
    return {
      ...reading,
      history: whole ? reading.history : 'unknown',
      changes: whole ? entries.map(({ change }) => change) : [],
      reached: (whole ? entries.at(-1)?.position : undefined) ?? since,
    }
  }

  async readMembers(after: number, told: readonly Position[], since?: Position): Promise<MembersReading> {
    const reading = await this.#answer(since, told)
    const rest = this.members.filter(({ token }) => token > after)
    return {
      ...reading,
      members: rest.slice(0, this.#rows),
      complete: rest.length <= this.#rows,
      recovering: false,
    }
  }

  async #answer(since: Position | undefined, told: readonly Position[]): Promise<Reading> {
    await Promise.resolve()
    if (this.failing) throw new Error('away')
    return {
      ...this.head,
      sweepOverdue: false,
      lost: lostOf(told, this.head, (revision) =>
        revision > this.#trimmed ? this.#log[revision - 1]?.position.stamp : undefined,
      ),
      history: since === undefined ? 'unknown' : this.#historyAt(since),
    }
  }

  #historyAt({ revision, stamp }: Position): Reading['history'] {
    const { head } = this
    const then = revision === head.revision ? head : this.#log[revision - 1]?.position
    if (revision !== head.revision && revision <= this.#trimmed) return 'unknown'
    if (then === undefined || then.stamp === '' || stamp === '')
      return then?.stamp === stamp ? 'same' : 'unknown'
    return then.stamp === stamp ? 'same' : 'other'
  }

  #note(stamp: string, kind: MemberChange['kind'], member: Member): void {
    if (kind === 'left') this.#members.delete(member.id)
    else this.#members.set(member.id, member)
    this.#log.push({ position: { revision: this.#log.length + 1, stamp }, change: { kind, member } })
  }
}
