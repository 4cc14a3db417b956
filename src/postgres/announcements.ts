/**
 * What the database announces on a cluster's members' channel (`announce()`, in the migrations): checked, read,
 * and put together to deltas.
 *
 * Anybody who can connect may send on a channel that he knows. An announcement counts only with the right code
 * (HMAC-SHA256 with a key that members alone are told), and only from the server that this process's heartbeats
 * go to: after a failover, the old primary knows the key as well. Anything else is dropped, and costs nothing.
 */
import { createHmac, timingSafeEqual } from 'node:crypto'
import type { Member } from '../api/member.js'
import {
  type Delta,
  type MemberChange,
  type Position,
  positionOf,
  samePosition,
  untold,
} from '../engine/store.js'

/** Where changes are announced to members, and what they are told it by. */
export interface MembersChannel {
  readonly name: string
  readonly key: Buffer
  /** The cluster's hint channel: it stands for schema and cluster in each announcement. */
  readonly hints: string
}

/** A transaction changes a cluster once or several times; each time is announced in one page or several. */
interface Page {
  readonly server: string
  /** Of this time. */
  readonly from: Position
  readonly to: Position
  /** Of the transaction. */
  readonly lastRevision: number
  /** Of the first change on this page. */
  readonly first: number
  readonly changes: readonly MemberChange[]
}

/** A transaction of which more is to come. */
interface Open {
  readonly from: Position
  readonly last: Page
  readonly changes: MemberChange[]
}

/** What is kept of a transaction before its end is there. Of a larger one, readers look. */
const MAX_CHANGES = 10_000

export class Announcements {
  readonly #channel: MembersChannel
  #open: Open | undefined

  constructor(channel: MembersChannel) {
    this.#channel = channel
  }

  /**
   * The whole of a transaction when its last page is there; a delta without a beginning where something happened
   * that is not told, or no longer. undefined: it is not over yet, or not for us.
   */
  hear(payload: string, server: string | undefined): Delta | undefined {
    const page = this.#authentic(payload)
    if (page === undefined || page.server !== server) return undefined
    const open = this.#open
    this.#open = undefined
    const isBeginning = page.first === page.from.revision + 1
    const before = open !== undefined && follows(page, open.last) ? open : undefined
    if (page.changes.length === 0 || (before === undefined && !isBeginning)) return untold(page.to)
    const from = before?.from ?? page.from
    const changes = before?.changes ?? []
    changes.push(...page.changes)
    if (nextOf(page) > page.lastRevision) return { to: page.to, from, changes }
    if (changes.length <= MAX_CHANGES) this.#open = { from, last: page, changes }
    return undefined
  }

  #authentic(payload: string): Page | undefined {
    const code = Buffer.from(payload.slice(0, 64), 'hex')
    const body = payload.slice(65)
    const own = createHmac('sha256', this.#channel.key).update(body).digest()
    if (code.length !== own.length || !timingSafeEqual(code, own)) return undefined
    return pageOf(body, this.#channel.hints)
  }
}

/** Of the change after it. */
function nextOf({ first, changes }: Page): number {
  return first + changes.length
}

function follows(page: Page, last: Page): boolean {
  if (page.first !== nextOf(last)) return false
  return page.first === page.from.revision + 1
    ? samePosition(page.from, last.to)
    : samePosition(page.from, last.from) && samePosition(page.to, last.to)
}

const UUID = '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}'
const INTEGER = '\\d{1,16}'
const HEADER = new RegExp(
  `^(\\S+) (\\S+) (${INTEGER}) (${UUID}) (${INTEGER}) (${UUID}) (${INTEGER}) (${INTEGER})$`,
)
const CHANGE = new RegExp(`^([jul]) (${UUID}) (${INTEGER}) (${INTEGER}) ([A-Za-z0-9+/]*={0,2})$`)
const KINDS: Readonly<Record<string, MemberChange['kind']>> = { j: 'joined', u: 'updated', l: 'left' }
/** The end of the year 9999, up to which Date and PostgreSQL write years alike. */
const MAX_TIME_MS = 253_402_300_799_999

/** undefined: nothing that announce() writes. */
function pageOf(body: string, hints: string): Page | undefined {
  const [header = '', ...lines] = body.split('\n')
  const [, channel, server = '', fromRevision, fromStamp = '', toRevision, toStamp = '', last, start] =
    HEADER.exec(header) ?? []
  if (channel !== hints) return undefined
  const changes = lines.map(changeOf)
  const [from, to] = [positionOf(Number(fromRevision), fromStamp), positionOf(Number(toRevision), toStamp)]
  const [lastRevision, first] = [Number(last), Number(start)]
  const isWhole = (change: MemberChange | undefined): change is MemberChange => change !== undefined
  const inOrder =
    from.revision < first && first + changes.length - 1 <= to.revision && to.revision <= lastRevision
  if (!inOrder || !Number.isSafeInteger(lastRevision) || !changes.every(isWhole)) return undefined
  return { server, from, to, lastRevision, first, changes }
}

function changeOf(line: string): MemberChange | undefined {
  const [, letter = '', id = '', number, time, data = ''] = CHANGE.exec(line) ?? []
  const [kind, token, registeredMs] = [KINDS[letter], Number(number), Number(time)]
  if (kind === undefined || !Number.isSafeInteger(token) || !(registeredMs <= MAX_TIME_MS)) return undefined
  const member: Member = {
    id,
    data: Buffer.from(data, 'base64').toString(),
    token,
    registeredAt: new Date(registeredMs).toISOString(),
  }
  return { kind, member }
}
