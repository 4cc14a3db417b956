/**
 * Reads the announcements on a cluster's members' channel (`announce()`, in the migrations): checks them, and puts
 * them together to deltas.
 *
 * Anybody who can connect can send on a channel whose name he has. An announcement counts only with the right code
 * (HMAC-SHA256 with a key that only members get), and only from the server that this process's heartbeats go to:
 * after a failover, the old primary still has the key. Anything else is dropped, and causes no query.
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

/** The channel on which changes are announced to members, and the key that proves them. */
export interface MembersChannel {
  readonly name: string
  readonly key: Buffer
  /** The name of the cluster's hint channel. Each announcement has it, to say which schema and cluster it is for. */
  readonly hints: string
}

/** One notification. A transaction changes a cluster once or several times; each time is announced in pages. */
interface Page {
  readonly server: string
  /** The positions before and after this time. */
  readonly from: Position
  readonly to: Position
  /** The last revision of the transaction. */
  readonly lastRevision: number
  /** The revision of the first change on this page. */
  readonly first: number
  readonly changes: readonly MemberChange[]
}

/** A transaction whose last page has not come yet. */
interface Unfinished {
  readonly from: Position
  readonly last: Page
  readonly changes: MemberChange[]
}

/** How many changes of an unfinished transaction are kept. After a larger one, the reader refreshes. */
const MAX_CHANGES = 10_000

export class Announcements {
  readonly #channel: MembersChannel
  #unfinished: Unfinished | undefined

  constructor(channel: MembersChannel) {
    this.#channel = channel
  }

  /**
   * Returns the delta of a transaction when its last page has come. The delta has no `from` if its changes were not
   * announced, or if a page is missing. undefined: the last page has not come, or the announcement does not count.
   */
  hear(payload: string, server: string | undefined): Delta | undefined {
    const page = this.#authentic(payload)
    if (page === undefined || page.server !== server) return undefined
    const unfinished = this.#unfinished
    this.#unfinished = undefined
    const isBeginning = page.first === page.from.revision + 1
    const before = unfinished !== undefined && follows(page, unfinished.last) ? unfinished : undefined
    if (page.changes.length === 0 || (before === undefined && !isBeginning)) return untold(page.to)
    const from = before?.from ?? page.from
    const changes = before?.changes ?? []
    changes.push(...page.changes)
    if (nextOf(page) > page.lastRevision) return { to: page.to, from, changes }
    if (changes.length <= MAX_CHANGES) this.#unfinished = { from, last: page, changes }
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

/** The revision of the first change after this page. */
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
/** The end of the year 9999: up to then, Date and PostgreSQL write years alike. */
const MAX_TIME_MS = 253_402_300_799_999

/** undefined: announce() does not write such a text. */
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
