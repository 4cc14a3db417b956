/**
 * One connection that is opened when needed, shared by turns, and replaced after any trouble.
 *
 * Kysely's driver puts a dead socket back into its pool and listens for no error on it; this stands
 * between the two. Each query has a bound; past it, the socket is destroyed and the server gives up by
 * itself (client_connection_check_interval).
 *
 * However many ask, attempts to connect keep a pace: a database that comes back must not be met by a crowd.
 * When one has failed, the next waits for a backoff, and whoever waited for the failed one is told.
 */
import { setTimeout as sleep } from 'node:timers/promises'
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
  /** Bound of each query, and of an attempt to connect: see `#connectMs`. */
  readonly timeoutMs: number
  /** Closed after this long without use; default never. */
  readonly idleMs?: number
  /** Before each attempt to connect; it fails where this rejects. */
  readonly before?: () => Promise<unknown>
  /** The longest backoff between two attempts; asked when one has failed. */
  readonly maxBackoffMs: () => number
  /** Told which server each new connection leads to, and which one the connection before it did. */
  readonly onServer?: (server: string, before: string | undefined) => void
  /** Told when a connection that was in use or idle breaks. */
  readonly onLost?: () => void
}

interface Open extends Greeted {
  readonly client: pg.Client
  readonly socket: ClientConfig
}

/** The last attempt to connect failed. */
interface Failure {
  readonly error: unknown
  /** No attempt before. */
  readonly untilMs: number
}

const MAX_CONNECT_MS = 5_000

export class SingleConnection implements PostgresPool {
  readonly #options: SingleConnectionOptions
  timeoutMs: number
  #open: Open | undefined
  #server: string | undefined
  #opening: ClientConfig | undefined
  #turn: Promise<void> = Promise.resolve()
  #failure: Failure | undefined
  #failures = 0
  /** How many attempts to connect in a row took longer than their bound. */
  #late = 0
  #idleTimer: NodeJS.Timeout | undefined
  readonly #closing = new AbortController()
  readonly #abandoned = new AbortController()

  constructor(options: SingleConnectionOptions) {
    this.#options = options
    this.timeoutMs = options.timeoutMs
  }

  /** What the client was told its backend is, when it connected; 0 before. */
  get backendPid(): number {
    return (this.#open?.client as { processID?: number } | undefined)?.processID ?? 0
  }

  /**
   * The server's time in milliseconds since 1970, rather too early than too late; for one who has the connection.
   * It lets the server tell the age of an attempt, however late it is executed.
   */
  get serverMs(): number | null {
    return this.#open?.clock.at(monotonicMs()) ?? null
  }

  /** An answer told the server's time. */
  heardClock(serverMs: number): void {
    this.#open?.clock.hear(serverMs, monotonicMs())
  }

  /** Which server it leads to, or did last. */
  get server(): string | undefined {
    return this.#server
  }

  get isOpen(): boolean {
    return this.#open !== undefined
  }

  /** It could not be opened the last time, and has not been since. */
  get isAway(): boolean {
    return this.#open === undefined && this.#failure !== undefined
  }

  /** Breaks, if it leads to another server. */
  leaveOther(server: string): void {
    if (this.#open?.server !== server) this.#discard(this.#open)
  }

  async isDirect(): Promise<boolean> {
    const lease = await this.connect()
    lease.release()
    return this.#open?.direct ?? false
  }

  async run(text: string, values: readonly unknown[]): Promise<unknown> {
    const lease = await this.connect()
    try {
      return await lease.query(text, values)
    } finally {
      lease.release()
    }
  }

  /** Waits for its turn; whoever has it must release it. */
  async connect(): Promise<PostgresPoolClient> {
    const before = this.#turn
    const known = this.#failure
    let release = (): void => undefined
    this.#turn = new Promise((resolve) => (release = resolve))
    await before
    clearTimeout(this.#idleTimer)
    try {
      const open = (this.#open ??= await this.#reach(known))
      return {
        query: this.#query.bind(this, open) as PostgresPoolClient['query'],
        release: () => {
          this.#startIdling()
          release()
        },
      }
    } catch (error) {
      release()
      throw error
    }
  }

  /** For Kysely, which must not close what others share. */
  end(): Promise<void> {
    return Promise.resolve()
  }

  /** Says goodbye to the server after the query under way, or is destroyed at the deadline. */
  async close(deadlineMs: number): Promise<void> {
    const endMs = monotonicMs() + deadlineMs
    this.#closing.abort()
    clearTimeout(this.#idleTimer)
    await within(deadlineMs, this.#turn, 'closing').catch(() => undefined)
    this.#abandoned.abort()
    this.#opening?.destroy()
    if (this.#open !== undefined) await farewell(this.#open, endMs - monotonicMs())
  }

  /** `known`: the failure that the caller knew of when it began to wait for its turn. */
  async #reach(known: Failure | undefined): Promise<Open> {
    if (this.#failure !== undefined && this.#failure !== known) throw this.#failure.error
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
      this.#server = open.server
      this.#options.onServer?.(open.server, before)
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
   * A server that all turn to at once is slow to let them in. If each gave up in the middle and began again,
   * nobody would ever get in: after each attempt that came too late the next may take twice as long.
   */
  get #connectMs(): number {
    return Math.max(this.timeoutMs, Math.min(MAX_CONNECT_MS, this.timeoutMs * 2 ** this.#late))
  }

  async #connect(boundMs: number): Promise<Open> {
    if (this.#isClosed()) throw new ClosedError('The connections are closed')
    const { signal } = this.#abandoned
    const socket = await clientConfig({ ...this.#options, connectTimeoutMs: boundMs, signal })
    if (this.#isClosed()) throw new ClosedError('The connections are closed')
    this.#opening = socket
    try {
      const client = new pg.Client({ ...socket.config, types: AS_WRITTEN })
      // Until it is in use, and after it has failed, an error must still find a listener.
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

  // Behind `await`, another call may have closed it.
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

/** Says goodbye; destroys what does not answer. */
async function farewell({ client, socket }: Open, deadlineMs: number): Promise<void> {
  await within(deadlineMs, client.end(), 'closing').catch(() => undefined)
  socket.destroy()
}

const names = new Map<string, string>()

/**
 * Of a prepared statement: what its first line says, for whoever looks at the traffic or at pg_prepared_statements,
 * and a number. There are as many as there are kinds of statements, for each schema.
 */
function nameOf(text: string): string {
  const known = names.get(text)
  if (known !== undefined) return known
  const [, about = ''] = /^\s*-- (.*)$/m.exec(text) ?? []
  const name = `pg-membership ${about} ${String(names.size)}`
  names.set(text, name)
  return name
}
