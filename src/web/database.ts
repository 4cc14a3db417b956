/**
 * The one connection of whoever asks again and again: the page's server, and commands that go on. It opens when
 * something is asked, and after any trouble the next question opens another. Each question is a transaction of its own that can only read: a standby is good enough.
 */
import pg from 'pg'
import { within } from '../kit/waiting.js'
import { type ClientConfig, clientConfig } from '../postgres/connection/client.js'
import { begin } from '../postgres/connection/settings.js'
import { breaksConnection, permanentError } from '../postgres/errors.js'
import { type Query, queryOf } from '../postgres/query.js'
import { checkPlace, PLACE_QUESTION, placeOf } from '../postgres/schema/ownership.js'
import { checkSchemaVersion, type FoundVersion, VERSION_QUESTION } from '../postgres/schema/version.js'

const CONNECT_TIMEOUT_MS = 5_000
/** The server stops a statement after this time. */
const STATEMENT_TIMEOUT_MS = 10_000
const BOUNDS = { statementTimeoutMs: STATEMENT_TIMEOUT_MS, lockTimeoutMs: STATEMENT_TIMEOUT_MS }
/** A connection that has not answered by then is dead. */
const ANSWER_TIMEOUT_MS = STATEMENT_TIMEOUT_MS + 2_000

export interface DatabaseOptions {
  readonly connection: string
  readonly schema: string
  readonly applicationName: string
}

interface Open {
  readonly client: pg.Client
  readonly query: Query
  readonly socket: ClientConfig
}

export class Database {
  readonly #options: DatabaseOptions
  #open: Promise<Open> | undefined
  #lastTurn: Promise<unknown> = Promise.resolve()
  #isClosed = false

  constructor(options: DatabaseOptions) {
    this.#options = options
  }

  /** Asks in one transaction. Questions wait for one another. */
  ask<T>(read: (query: Query) => Promise<T>): Promise<T> {
    const turn = this.#lastTurn.then(() => this.#ask(read))
    this.#lastTurn = turn.catch(() => undefined)
    return turn
  }

  /** Ends the connection at once. */
  close(): void {
    this.#isClosed = true
    this.#discard(this.#open)
  }

  async #ask<T>(read: (query: Query) => Promise<T>): Promise<T> {
    const mayBeStale = this.#open !== undefined
    try {
      return await this.#askOnce(read)
    } catch (error) {
      // It was lost while nothing was asked, and nobody had noticed. To read again does no harm.
      if (!mayBeStale || this.#isClosed || !breaksConnection(error)) throw error
      return this.#askOnce(read)
    }
  }

  async #askOnce<T>(read: (query: Query) => Promise<T>): Promise<T> {
    const opening = (this.#open ??= this.#connect())
    try {
      const { client, query: ask } = await opening
      const query: Query = <R extends object>(text: string, values: readonly unknown[]) =>
        within(ANSWER_TIMEOUT_MS, ask<R>(text, values), 'the answer')
      await within(ANSWER_TIMEOUT_MS, client.query(begin('read only', BOUNDS)), 'the answer')
      const answer = await read(query)
      await within(ANSWER_TIMEOUT_MS, client.query('commit'), 'the answer')
      return answer
    } catch (error) {
      // A statement that was refused leaves a transaction to end; anything else, a connection that nobody can trust.
      if (breaksConnection(error) || !(await this.#rolledBack(opening))) this.#discard(opening)
      throw permanentError(error) ?? error
    }
  }

  async #rolledBack(opening: Promise<Open>): Promise<boolean> {
    try {
      const { client } = await opening
      await within(ANSWER_TIMEOUT_MS, client.query('rollback'), 'the answer')
      return true
    } catch {
      return false
    }
  }

  async #connect(): Promise<Open> {
    if (this.#isClosed) throw new Error('The page is closed')
    const socket = await clientConfig({
      connection: this.#options.connection,
      applicationName: this.#options.applicationName,
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
    })
    const client = new pg.Client(socket.config)
    client.on('error', () => undefined)
    const query = queryOf(client, this.#options.schema)
    try {
      await within(CONNECT_TIMEOUT_MS, client.connect(), 'connecting')
      await within(ANSWER_TIMEOUT_MS, this.#looked(client, query), 'the answer')
    } catch (error) {
      socket.destroy()
      throw error
    }
    const open = { client, query, socket }
    // A connection that ends while nothing is asked costs no question.
    client.once('end', () => void this.#forget(open))
    return open
  }

  /** Whose schema it is, and which version. */
  async #looked(client: pg.Client, query: Query): Promise<void> {
    const { schema } = this.#options
    await client.query(begin('read only', BOUNDS))
    const place = placeOf((await query<{ place: string }>(PLACE_QUESTION, [schema]))[0])
    if (place !== undefined) checkPlace(place, schema, 'ask')
    const [version] = await query<FoundVersion>(VERSION_QUESTION, [])
    checkSchemaVersion(version)
    await client.query('commit')
  }

  async #forget(ended: Open): Promise<void> {
    const opening = this.#open
    const open = await opening?.catch(() => undefined)
    if (open === ended && this.#open === opening) this.#open = undefined
  }

  #discard(opening: Promise<Open> | undefined): void {
    if (this.#open === opening) this.#open = undefined
    opening?.then(
      ({ socket }) => socket.destroy(),
      () => undefined,
    )
  }
}
