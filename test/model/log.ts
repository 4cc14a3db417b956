/** The log of one cluster, followed from outside; kept here, since the schedule trims it in the database. */
import type { Member } from 'pg-membership'
import type { AdminClient } from '../support/database.js'
import { changeDigestOf, digestOf } from '../support/digest.js'
import { apply, eventsOf, type LoggedEvent } from '../support/event-log.js'
import { Broken } from './broken.js'

export const SCHEMA = 'pgmembership'
/** Data of a row begins so while it is deleted, inserted and changed in one transaction: only its end may be seen. */
export const PUT_BACK = 'put back by hand'

export interface Departure {
  readonly atMs: number
  readonly reason: string
}

export interface Stay {
  readonly member: string
  readonly token: number
  readonly joinedMs: number
  left?: Departure
}

export class Log {
  readonly cluster: string
  readonly #members = new Map<string, Member>()
  readonly #digests = new Map<number, string>([[0, digestOf([])]])
  readonly #changes = new Map<number, string>()
  readonly #stays = new Map<number, Stay>()
  /** Revisions in the middle of a transaction. */
  readonly #inside = new Set<number>()
  #last: LoggedEvent | undefined
  #highestToken = 0
  #following: Promise<unknown> = Promise.resolve()

  constructor(cluster: string) {
    this.cluster = cluster
  }

  get revision(): number {
    return this.#last?.revision ?? 0
  }

  /** As the log tells them, oldest registration first. */
  get members(): readonly Member[] {
    return [...this.#members.values()]
  }

  get digest(): string {
    return this.digestAt(this.revision) ?? ''
  }

  /** What a snapshot at this revision must show. */
  digestAt(revision: number): string | undefined {
    return this.#digests.get(revision)
  }

  /** What a feed must tell as this revision. */
  changeAt(revision: number): string | undefined {
    return this.#changes.get(revision)
  }

  /** No snapshot may show the cluster at this revision. */
  isInside(revision: number): boolean {
    return this.#inside.has(revision)
  }

  stay(token: number): Stay | undefined {
    return this.#stays.get(token)
  }

  get stays(): Iterable<Stay> {
    return this.#stays.values()
  }

  /** Reads on. Every revision once; time and tokens in order; and it makes sense. */
  follow(admin: AdminClient): Promise<void> {
    const followed = this.#following.then(async () => {
      for (const event of await eventsOf(admin, SCHEMA, this.cluster, this.revision)) this.#take(event)
    })
    this.#following = followed.catch(() => undefined)
    return followed
  }

  #take(event: LoggedEvent): void {
    const { revision, token, kind, reason, member } = event
    const atMs = Number(event.at) / 1_000
    if (revision !== this.revision + 1) {
      throw new Broken(4, `after revision ${this.revision} of ${this.cluster} comes ${revision}`, atMs)
    }
    if (this.#last !== undefined && event.at < this.#last.at) {
      throw new Broken(4, `time went back at revision ${revision} of ${this.cluster}`, atMs)
    }
    if (kind === 'joined' && token <= this.#highestToken) {
      throw new Broken(4, `token ${token} of ${this.cluster} is not higher than those before it`, atMs)
    }
    const before = this.#members.get(member)
    try {
      apply(event, this.#members)
    } catch (error) {
      throw new Broken(4, `the log of ${this.cluster} makes no sense: ${String(error)}`, atMs)
    }
    if (event.data?.startsWith(PUT_BACK) === true && this.#last?.member === member) {
      this.#inside.add(revision - 1)
    }
    if (kind === 'joined') {
      this.#highestToken = token
      this.#stays.set(token, { member, token, joinedMs: atMs })
    }
    const stay = this.#stays.get(token)
    if (kind === 'left' && stay !== undefined) stay.left = { atMs, reason }
    this.#digests.set(revision, digestOf(this.members))
    const changed = this.#members.get(member) ?? before
    if (changed !== undefined) this.#changes.set(revision, changeDigestOf(event, changed))
    this.#last = event
  }
}
