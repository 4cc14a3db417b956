import { randomUUID } from 'node:crypto'
import type { LossReason } from '../api/errors.js'
import type { Member } from '../api/member.js'
import type {
  ChangesReading,
  MemberChange,
  MembersReading,
  Position,
  Registration,
  Sighting,
} from '../engine/store.js'

/** One cluster's rows and log. */
export class Table {
  readonly members = new Map<string, Member>()
  readonly hints = new Set<() => void>()
  readonly #log: {
    readonly position: Position
    readonly change: MemberChange
    readonly reason: LossReason | undefined
  }[] = []
  #lastToken = 0

  get sighting(): Sighting {
    return { ...(this.#log.at(-1)?.position ?? { revision: 0, stamp: '' }), sweepOverdue: false }
  }

  readChanges(since: Position, upTo?: number): ChangesReading {
    const read = this.#log.slice(since.revision, upTo)
    return {
      ...this.sighting,
      history: 'same',
      changes: read.map(({ change }) => change),
      reached: read.at(-1)?.position ?? since,
    }
  }

  readMembers(after: number): MembersReading {
    const members = [...this.members.values()].filter(({ token }) => token > after)
    members.sort((a, b) => a.token - b.token)
    return { ...this.sighting, history: 'same', members, complete: true, recovering: false }
  }

  register(id: string, data: string, floor: number): number {
    const present = this.members.get(id)
    if (present !== undefined && present.token > floor) return present.token
    this.remove((member) => member.id === id, 'superseded')
    const token = Math.max(this.sighting.revision + 1, this.#lastToken + 1, floor + 1)
    this.#lastToken = token
    const member = { id, data, token, registeredAt: new Date().toISOString() }
    this.members.set(id, member)
    this.#record('joined', member)
    return token
  }

  setData(registration: Registration, data: string): void {
    const present = this.find(registration)
    if (present === undefined || present.data === data) return
    const member = { ...present, data }
    this.members.set(member.id, member)
    this.#record('updated', member)
  }

  remove(which: (member: Member) => boolean, reason: LossReason | undefined): void {
    for (const member of [...this.members.values()].filter(which)) {
      this.members.delete(member.id)
      this.#record('left', member, reason)
    }
  }

  find({ id, token }: Registration): Member | undefined {
    const member = this.members.get(id)
    return member?.token === token ? member : undefined
  }

  reasonOf({ id, token }: Registration): LossReason {
    const event = this.#log.findLast(
      ({ change: { kind, member } }) => kind === 'left' && member.id === id && member.token === token,
    )
    return event?.reason ?? 'removed'
  }

  #record(kind: MemberChange['kind'], member: Member, reason?: LossReason): void {
    const position = { revision: this.sighting.revision + 1, stamp: randomUUID() }
    this.#log.push({ position, change: { kind, member }, reason })
    for (const hint of [...this.hints]) hint()
  }
}
