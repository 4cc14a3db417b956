/**
 * One connection that is opened when it is needed, used in turns, and replaced after any trouble.
 *
 * Kysely's driver puts a dead socket back into its pool, and listens for no error on it. So this class stands between
 * Kysely and pg. Each query has a time limit. After it the socket is destroyed, and the server gives up by itself
 * (client_connection_check_interval).
 *
 * Attempts to connect keep a pace, however many callers wait: a database that comes back must not get a flood of them.
 * After a failed attempt, the next one waits for a backoff, and the callers that waited for the failed one get its
 * error.
 *
 * Callers get their turns in the order in which they asked, but heartbeats get theirs before all others.
 */
import { setImmediate, setTimeout as sleep } from 'node:timers/promises'
import type { PostgresPool, PostgresPoolClient } from 'kysely'
import pg from 'pg'
import { ClosedError } from '../../api/errors.js'
import { monotonicMs } from '../../kit/clock.js'
import { backoffMs } from '../../kit/loop.js'
import { within } from '../../kit/waiting.js'
import { breaksConnection } from '../errors.js'
import type { Connection } from '../options.js'
import { AS_WRITTEN, type ClientConfig, clientConfig } from './client.js'
import { greet, type Greeted } from './greeting.js'

export interface SingleConnectionOptions {
  readonly connection: Connection
  readonly session: string
  /** The time limit of each query, and of an attempt to connect: see `#connectMs`. */
  readonly timeoutMs: number
  /** How long the connection stays open without use; default for ever. */
  readonly idleMs?: number
  /** Called before each attempt to connect. If it rejects, the attempt fails. */
  readonly before?: () => Promise<unknown>
  /** The longest backoff between two attempts; called when one has failed. */
  readonly maxBackoffMs: () => number
  /** Called with the server of each new connection, and the server of the connection before. */
  readonly onServer?: (server: string, before: string | undefined) => void
  /** Called when a connection breaks, in use or idle. */
  readonly onLost?: () => void
}

/** A caller that waits for its turn. */
interface Waiting {
  readonly resolve: (turn: PostgresPoolClient) => void
  readonly reject: (error: unknown) => void
}

interface Open extends Greeted {
  readonly client: pg.Client
  readonly socket: ClientConfig
}

/** The last attempt to connect failed. */
interface Failure {
  readonly error: unknown
  /** No new attempt begins before this time. */
  readonly untilMs: number
}

const MAX_CONNECT_MS = 5_000

export class SingleConnection implements PostgresPool {
  readonly #options: SingleConnectionOptions
  timeoutMs: number
  #open: Open | undefined
  #server: string | undefined
  #opening: ClientConfig | undefined
  readonly #heartbeats: Waiting[] = []
  readonly #others: Waiting[] = []
  /** Resolves when nobody waits for a turn, and the last one is over; undefined: so it is. */
  #serving: Promise<void> | undefined
  #failure: Failure | undefined
  #failures = 0
  /** How many attempts to connect in a row took longer than their time limit. */
  #late = 0
  #idleTimer: NodeJS.Timeout | undefined
  readonly #closing = new AbortController()
  readonly #abandoned = new AbortController()

  constructor(options: SingleConnectionOptions) {
    this.#options = options
    this.timeoutMs = options.timeoutMs
  }

  /** The process id of the server's backend, as pg was told when it connected; 0 without a connection. */
  get backendPid(): number {
    return (this.#open?.client as { processID?: number } | undefined)?.processID ?? 0
  }

  /**
   * The server's time in milliseconds since 1970, estimated: perhaps behind, never ahead; null without a connection.
   * A statement that carries it lets the server tell its age, however late it is executed.
   */
  get serverMs(): number | null {
    return this.#open?.clock.at(monotonicMs()) ?? null
  }

  /** An answer told the server's time. */
  heardClock(serverMs: number): void {
    this.#open?.clock.hear(serverMs, monotonicMs())
  }

  /** The server that the connection leads to, or led to last. */
  get server(): string | undefined {
    return this.#server
  }

  get isOpen(): boolean {
    return this.#open !== undefined
  }

  /** The connection is not open, and the last attempt to open it failed. */
  get isAway(): boolean {
    return this.#open === undefined && this.#failure !== undefined
  }

  /** Destroys the connection if it leads to another server. */
  leaveOther(server: string): void {
    if (this.#open?.server !== server) this.#discard(this.#open)
  }

  async isDirect(): Promise<boolean> {
    const turn = await this.connect()
    turn.release()
    return this.#open?.direct ?? false
  }

  async run(text: string, values: readonly unknown[]): Promise<unknown> {
    const turn = await this.connect()
    try {
      return await turn.query(text, values)
    } finally {
      turn.release()
    }
  }

  /** Waits for a turn on the connection; the caller must release it. Kysely gives the name. */
  connect(): Promise<PostgresPoolClient> {
    return this.#turn(this.#others)
  }

  /** The same connection, for heartbeats: their turns come before all others that wait. */
  readonly forHeartbeats: PostgresPool = {
    connect: () => this.#turn(this.#heartbeats),
    end: () => this.end(),
  }

  /** For Kysely, which must not end a connection that others share. */
  end(): Promise<void> {
    return Promise.resolve()
  }

  /** Ends the connection after the query under way; destroys it at the deadline. */
  async close(deadlineMs: number): Promise<void> {
    const endMs = monotonicMs() + deadlineMs
    this.#closing.abort()
    clearTimeout(this.#idleTimer)
    if (this.#serving !== undefined) {
      await within(deadlineMs, this.#serving, 'closing').catch(() => undefined)
    }
    this.#abandoned.abort()
    this.#opening?.destroy()
    if (this.#open !== undefined) await farewell(this.#open, endMs - monotonicMs())
  }

  #turn(waiting: Waiting[]): Promise<PostgresPoolClient> {
    return new Promise((resolve, reject) => {
      waiting.push({ resolve, reject })
      this.#serving ??= this.#serve()
    })
  }

  /** Gives the turns, one after another, until nobody waits. */
  async #serve(): Promise<void> {
    clearTimeout(this.#idleTimer)
    while (this.#heartbeats.length + this.#others.length > 0) {
      let open: Open
      try {
        open = this.#open ?? (await this.#reach())
      } catch (error) {
        for (const { reject } of [...this.#heartbeats.splice(0), ...this.#others.splice(0)]) reject(error)
        continue
      }
      const query = this.#query.bind(this, open) as PostgresPoolClient['query']
      const next = this.#heartbeats.shift() ?? this.#others.shift()
      await new Promise<void>((release) => next?.resolve({ query, release }))
    }
    this.#startIdling()
    this.#serving = undefined
  }

  async #reach(): Promise<Open> {
    try {
      await this.#options.before?.()
    } catch (error) {
      this.#failure = { error, untilMs: 0 }
      throw error
    }
    const waitMs = (this.#failure?.untilMs ?? 0) - monotonicMs()
    if (waitMs > 0) {
      await sleep(waitMs, undefined, { signal: this.#closing.signal }).catch(() => undefined)
    }
    const startedMs = monotonicMs()
    const boundMs = this.#connectMs
    try {
      const open = await this.#connect(boundMs)
      this.#failure = undefined
      this.#failures = 0
      this.#late = 0
      const before = this.#server
      this.#open = open
      this.#server = open.server
      this.#options.onServer?.(open.server, before)
      // The heartbeats that this causes are asked for before the first turn is given.
      await setImmediate()
      return open
    } catch (error) {
      this.#failures += 1
      // A timer may be early by a millisecond.
      this.#late = monotonicMs() - startedMs < boundMs - 1 ? 0 : this.#late + 1
      const backoff = backoffMs(this.#failures, this.#options.maxBackoffMs(), Math.random())
      this.#failure = { error, untilMs: monotonicMs() + backoff }
      throw error
    }
  }

  /**
   * A server is slow when everybody connects at once. If each process gave up and began again, nobody would ever get
   * in. So after each attempt that took too long, the next one may take twice as long.
   */
  get #connectMs(): number {
    return Math.max(this.timeoutMs, Math.min(MAX_CONNECT_MS, this.timeoutMs * 2 ** this.#late))
  }

  async #connect(boundMs: number): Promise<Open> {
    if (this.#isClosed()) throw new ClosedError('The connections are closed')
    const { signal } = this.#abandoned
    const socket = await clientConfig({
      connection: this.#options.connection,
      applicationName: this.#options.session,
      connectTimeoutMs: boundMs,
      signal,
    })
    if (this.#isClosed()) throw new ClosedError('The connections are closed')
    this.#opening = socket
    try {
      const client = new pg.Client({ ...socket.config, types: AS_WRITTEN })
      // Before the connection is in use, and after it has failed, an error without a listener would end the process.
      client.on('error', () => undefined)
      await within(boundMs, client.connect(), 'connecting', signal)
      const open = { client, socket, ...(await greet(client, this.#options.session, boundMs)) }
      const onEnd = (): void => this.#discard(open)
      client.on('error', onEnd)
      client.on('end', onEnd)
      if (this.#isClosed()) throw new ClosedError('The connections are closed')
      return open
    } catch (error) {
      socket.destroy()
      throw error
    } finally {
      this.#opening = undefined
    }
  }

  // During an `await`, another call may have closed it.
  #isClosed(): boolean {
    return this.#closing.signal.aborted
  }

  async #query(open: Open, text: string, values: readonly unknown[] = []): Promise<unknown> {
    try {
      const query = { text, values: [...values], ...(open.direct ? { name: nameOf(text) } : {}) }
      return await within(this.timeoutMs, open.client.query(query), 'the answer')
    } catch (error) {
      if (breaksConnection(error)) this.#discard(open)
      throw error
    }
  }

  #discard(open: Open | undefined): void {
    if (open === undefined) return
    open.socket.destroy()
    if (this.#open !== open) return
    this.#open = undefined
    if (!this.#isClosed()) this.#options.onLost?.()
  }

  #startIdling(): void {
    const { idleMs } = this.#options
    if (idleMs === undefined || this.#isClosed()) return
    this.#idleTimer = setTimeout(() => {
      const open = this.#open
      this.#open = undefined
      if (open !== undefined) void farewell(open, this.timeoutMs)
    }, idleMs)
    this.#idleTimer.unref()
  }
}

/** Ends a connection; destroys it if the server does not answer. */
async function farewell({ client, socket }: Open, deadlineMs: number): Promise<void> {
  await within(deadlineMs, client.end(), 'closing').catch(() => undefined)
  socket.destroy()
}

const names = new Map<string, string>()

/**
 * The name of a prepared statement: its first line, for people who look at the traffic or at pg_prepared_statements,
 * and a number. There are as many names as kinds of statements, for each schema.
 */
function nameOf(text: string): string {
  const given = names.get(text)
  if (given !== undefined) return given
  const [, about = ''] = /^\s*-- (.*)$/m.exec(text) ?? []
  const name = `pg-membership ${about} ${String(names.size)}`
  names.set(text, name)
  return name
}
