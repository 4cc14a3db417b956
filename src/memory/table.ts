import { randomUUID } from 'node:crypto'
import type { Change } from '../api/change.js'
import type { LossReason } from '../api/errors.js'
import type { Member } from '../api/member.js'
import type { Registration } from '../api/registration.js'
import { cursorOf } from '../engine/cursor.js'
import {
  type ChangesReading,
  type LogReading,
  lossOf,
  type MembersReading,
  type Position,
  samePosition,
  type Sighting,
} from '../engine/store.js'

/** As many as one statement reads of a log in a database. */
const PAGE_CHANGES = 2_000

/** A value of a pool: free, taken, or used. */
export interface PooledNonce {
  readonly isUsed: boolean
  readonly taker?: Registration
  readonly batch?: string
}

/** One cluster's rows and log. */
export class Table {
  readonly members = new Map<string, Member>()
  /** By space and key. */
  readonly claims = new Map<string, Map<string, Registration>>()
  /** By pool and value. */
  readonly nonces = new Map<string, Map<string, PooledNonce>>()
  readonly hints = new Set<() => void>()
  readonly #log: { readonly position: Position; readonly change: Change }[] = []
  #lastToken = 0

  get sighting(): Sighting {
    return { ...(this.#log.at(-1)?.position ?? { revision: 0, stamp: '' }), sweepOverdue: false }
  }

  readChanges(since: Position, upTo?: number): ChangesReading {
    const read = this.#log.slice(since.revision, upTo)
    return {
      ...this.sighting,
      lost: undefined,
      history: 'same',
      changes: read.map(({ change }) => change),
      reached: read.at(-1)?.position ?? since,
    }
  }

  readLog(after?: Position): LogReading {
    const { revision, stamp } = this.sighting
    const head = { revision, stamp }
    const then = after === undefined ? head : this.#positionAt(after.revision)
    const isSame = after === undefined || (then !== undefined && samePosition(then, after))
    const read = isSame ? this.#log.slice(after?.revision ?? revision).slice(0, PAGE_CHANGES) : []
    return {
      head,
      follows: isSame ? 'all' : 'replaced',
      changes: read.map(({ change }) => change),
      reached: read.at(-1)?.position ?? after ?? head,
    }
  }

  readMembers(after: number): MembersReading {
    const members = [...this.members.values()].filter(({ token }) => token > after)
    members.sort((a, b) => a.token - b.token)
    return {
      ...this.sighting,
      lost: undefined,
      history: 'same',
      members,
      complete: true,
      recovering: false,
    }
  }

  register(id: string, data: string, floor: number): number {
    const present = this.members.get(id)
    if (present !== undefined && present.token > floor) return present.token
    this.remove((member) => member.id === id, 'superseded')
    const token = Math.max(this.sighting.revision + 1, this.#lastToken + 1, floor + 1)
    this.#lastToken = token
    const member = Object.freeze({ id, data, token, registeredAt: new Date().toISOString() })
    this.members.set(id, member)
    this.#record('joined', 'registered', member)
    return token
  }

  setData(registration: Registration, data: string): void {
    const present = this.find(registration)
    if (present === undefined || present.data === data) return
    const member = Object.freeze({ ...present, data })
    this.members.set(member.id, member)
    this.#record('updated', 'data', member)
  }

  remove(which: (member: Member) => boolean, reason: Change['reason']): void {
    for (const member of [...this.members.values()].filter(which)) {
      this.members.delete(member.id)
      this.#record('left', reason, member)
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
    return lossOf(event?.change.reason ?? 'removed')
  }

  #positionAt(revision: number): Position | undefined {
    return revision === 0 ? { revision, stamp: '' } : this.#log[revision - 1]?.position
  }

  #record(kind: Change['kind'], reason: Change['reason'], member: Member): void {
    const position = { revision: this.sighting.revision + 1, stamp: randomUUID() }
    const { revision } = position
    const at = kind === 'joined' ? member.registeredAt : new Date().toISOString()
    const change = Object.freeze({ cursor: cursorOf(position), revision, at, kind, reason, member })
    this.#log.push({ position, change })
    for (const hint of [...this.hints]) hint()
  }
}
