/**
 * Announcements and hints, over a connection of their own. The only file that uses pg-listen.
 *
 * pg-listen's own reconnection gives up, leaks, or stops hearing, in ways that nothing reports. So a subscriber lives
 * once: after any trouble it is destroyed, and a new one is built. The new one listens, and then proves that it hears:
 * a nonce sent through another connection must come back. It proves this again from time to time, and whenever a
 * change was found that was not announced. In that case the listener also asks for the names of the channels again,
 * which the owner of the schema may have changed.
 *
 * The name of a members' channel is a secret, and the server shows the last statement of each connection. So after a
 * LISTEN on such a channel there is always another statement.
 */
import { randomUUID } from 'node:crypto'
import type { EventEmitter } from 'node:events'
import pg from 'pg'
import pgListen from 'pg-listen'
import { monotonicMs } from '../../kit/clock.js'
import { Loop } from '../../kit/loop.js'
import { within } from '../../kit/waiting.js'
import { permanentError } from '../errors.js'
import type { Connection } from '../options.js'
import { type ClientConfig, clientConfig } from './client.js'

export interface ListenerOptions {
  readonly connection: Connection
  readonly session: string
  /** Resolves with false if LISTEN cannot work here. */
  readonly allowed: () => Promise<boolean>
  /** No connection for queries can be opened. `retry` is called when one is. */
  readonly isAway: () => boolean
  /** Sends a notification through another connection. */
  readonly notify: (channel: string, payload: string) => Promise<unknown>
}

export interface Subscription {
  /** Asks the database for the channel's name: at first, when it was renamed, and when something was missed. */
  readonly channel: () => Promise<string>
  readonly onNotification: (payload: string) => void
  /** LISTEN has begun. What was sent before this moment was not heard. */
  readonly onListening: () => void
  /** true: it hears, and what was missed before must be read. false: from now on it misses notifications. */
  readonly onChange: (hearing: boolean) => void
  readonly onError: (error: Error) => void
  /** Called once if LISTEN is not tried, because of a pooler. */
  readonly onPooler: () => void
}

const TIMEOUT_MS = 2_000
/** Long, because nobody waits for the listener. Giving up and coming back makes the queue of a busy server longer. */
const CONNECT_TIMEOUT_MS = 10_000
const MAX_BACKOFF_MS = 5_000
/** How long to believe, without a proof, that silence means that nothing was sent. */
const PROOF_INTERVAL_MS = 30_000
/** A proof is a NOTIFY, which takes a lock of the whole server: doubts must not cause many. */
const MIN_PROOF_INTERVAL_MS = 5_000

const DEAF =
  'A notification that was sent did not arrive. LISTEN does not work over this connection, perhaps because it goes ' +
  'through a pooler in transaction mode. Give a direct or session-mode address as listenConnection, or false to poll'

interface Ear {
  readonly subscriber: ReturnType<typeof pgListen.default>
  readonly socket: ClientConfig
  readonly channels: Set<string>
  /** Why its connection broke. */
  trouble?: Error
}

interface Subscribed {
  channel?: string
  /** The name of the channel must be asked for. */
  stale: boolean
  hearing?: boolean
  warned?: boolean
}

export class Listener {
  readonly #options: ListenerOptions
  readonly #subscriptions = new Map<Subscription, Subscribed>()
  readonly #probe = `member_probe_${randomUUID().replaceAll('-', '')}`
  readonly #loop = new Loop({
    run: () => this.#run(),
    onError: (error) => this.#failed(error),
    maxBackoffMs: () => MAX_BACKOFF_MS,
  })
  #ear: Ear | undefined
  #opening: ClientConfig | undefined
  #provenMs = -Infinity
  #doubted = false
  #awaited: { readonly nonce: string; readonly resolve: () => void } | undefined
  readonly #closing = new AbortController()

  constructor(options: ListenerOptions) {
    this.#options = options
  }

  /** Returns a function that unsubscribes. */
  subscribe(subscription: Subscription): () => void {
    this.#subscriptions.set(subscription, { stale: true })
    this.#loop.wakeNow()
    return () => {
      this.#subscriptions.delete(subscription)
      this.#loop.wake()
    }
  }

  /** The channel of this subscription has another name now: asks for it. */
  renamed(subscription: Subscription): void {
    const its = this.#subscriptions.get(subscription)
    if (its === undefined) return
    its.stale = true
    this.#loop.wake()
  }

  /** Something may have been missed: asks for a proof that the listener hears. */
  doubt(): void {
    this.#doubted = true
    this.#loop.wake()
  }

  /** Queries go to another server now: announcements over the present connection do not count. */
  leave(): void {
    this.#opening?.destroy()
    void this.#dropEar(0)
    this.#setHearing(false)
  }

  /** The database is reached again: ends a backoff. */
  retry(): void {
    if (this.#subscriptions.size > 0) this.#loop.wakeNow()
  }

  async close(deadlineMs: number): Promise<void> {
    const endMs = monotonicMs() + deadlineMs
    this.#closing.abort()
    const stopped = this.#loop.stop()
    this.#opening?.destroy()
    await this.#dropEar(deadlineMs)
    await within(endMs - monotonicMs(), stopped, 'closing the listener').catch(() => undefined)
    await this.#dropEar(0)
  }

  async #run(): Promise<number> {
    if (this.#ear === undefined && !(await this.#options.allowed())) return this.#pooled()
    const ear = (this.#ear ??= await this.#open())
    if (monotonicMs() >= this.#proofDueMs()) await this.#prove(ear)
    await this.#askForNames()
    await this.#followSubscriptions(ear)
    this.#setHearing(true)
    return this.#subscriptions.size === 0 ? Infinity : this.#proofDueMs() - monotonicMs()
  }

  #pooled(): number {
    this.#setHearing(false)
    for (const [{ onPooler }, its] of this.#subscriptions) {
      if (its.warned !== true) onPooler()
      its.warned = true
    }
    return Infinity
  }

  async #open(): Promise<Ear> {
    const { connection, session } = this.#options
    const { signal } = this.#closing
    const socket = await clientConfig({
      connection,
      applicationName: session,
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
      signal,
    })
    if (this.#isClosed()) throw new Error('The listener is closed')
    this.#opening = socket
    // pg-listen does not tell why a connection broke; the connection object inside of pg does.
    const { connection: wire } = new pg.Client(socket.config) as unknown as { connection: EventEmitter }
    const subscriber = pgListen.default(
      { ...socket.config, query_timeout: TIMEOUT_MS, ...{ connection: wire } },
      // pg-listen must not reconnect, must not parse what anybody may have sent, and must send no queries of its own.
      { retryLimit: 1, paranoidChecking: false, parse: (text) => text, serialize: String },
    )
    const ear: Ear = { subscriber, socket, channels: new Set() }
    for (const event of ['error', 'errorMessage']) wire.on(event, (error: Error) => (ear.trouble = error))
    subscriber.events.on('error', (cause: Error) =>
      this.#broken(ear, ear.trouble ?? new Error('The connection was lost', { cause })),
    )
    subscriber.events.on('notification', ({ channel, payload }) => this.#hear(channel, String(payload)))
    this.#provenMs = -Infinity
    try {
      await within(CONNECT_TIMEOUT_MS, subscriber.connect(), 'connecting the listener', signal)
      if (this.#isClosed()) throw new Error('The listener is closed')
      return ear
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

  // One query at a time: pg warns about more on the console.
  async #followSubscriptions(ear: Ear): Promise<void> {
    const { channels } = ear
    const named = [...this.#subscriptions.values()].flatMap(({ channel }) => channel ?? [])
    const wanted = new Set([this.#probe, ...named])
    let isNew = false
    for (const channel of wanted) {
      if (channels.has(channel)) continue
      await this.#listen(ear, channel)
      isNew = true
      for (const [{ onListening }, its] of this.#subscriptions) if (its.channel === channel) onListening()
    }
    for (const channel of channels) if (!wanted.has(channel)) await this.#unlisten(ear, channel)
    if (!isNew) return
    await this.#unlisten(ear, this.#probe)
    await this.#listen(ear, this.#probe)
  }

  async #askForNames(): Promise<void> {
    for (const [subscription, its] of this.#subscriptions) {
      if (!its.stale) continue
      its.channel = await subscription.channel()
      its.stale = false
    }
  }

  #proofDueMs(): number {
    return this.#provenMs + (this.#doubted ? MIN_PROOF_INTERVAL_MS : PROOF_INTERVAL_MS)
  }

  async #unlisten({ subscriber, channels }: Ear, channel: string): Promise<void> {
    await within(TIMEOUT_MS, Promise.resolve(subscriber.unlisten(channel)), 'UNLISTEN', this.#closing.signal)
    channels.delete(channel)
  }

  async #listen({ subscriber, channels }: Ear, channel: string): Promise<void> {
    await within(TIMEOUT_MS, Promise.resolve(subscriber.listenTo(channel)), 'LISTEN', this.#closing.signal)
    channels.add(channel)
  }

  /**
   * Listens on a channel of its own first. If a pooler gives the LISTEN to a connection that it shares, others hear
   * that channel for as long as the pooler keeps the connection.
   */
  async #prove(ear: Ear): Promise<void> {
    if (!ear.channels.has(this.#probe)) await this.#listen(ear, this.#probe)
    const nonce = randomUUID()
    const heard = new Promise<void>((resolve) => (this.#awaited = { nonce, resolve }))
    await this.#options.notify(this.#probe, nonce)
    try {
      await within(TIMEOUT_MS, heard, 'hearing a notification', this.#closing.signal)
    } catch (cause) {
      throw this.#ear === ear ? new Error(DEAF, { cause }) : cause
    } finally {
      this.#awaited = undefined
    }
    if (this.#ear !== ear && this.#ear !== undefined) throw new Error('The listener was replaced')
    this.#provenMs = monotonicMs()
    if (this.#doubted) for (const its of this.#subscriptions.values()) its.stale = true
    this.#doubted = false
  }

  #hear(channel: string, payload: string): void {
    if (channel === this.#probe) {
      if (payload === this.#awaited?.nonce) this.#awaited.resolve()
      return
    }
    for (const [{ onNotification }, its] of this.#subscriptions) {
      if (its.channel === channel) onNotification(payload)
    }
  }

  #broken(ear: Ear, error: Error): void {
    if (this.#ear !== ear) {
      ear.socket.destroy()
      return
    }
    this.#failed(error)
    this.#loop.wake()
  }

  /** Returns how long to wait: if the database will refuse the next attempt as well, others have to reach it first. */
  #failed(error: Error): number | undefined {
    const permanent = permanentError(error)
    void this.#dropEar(0)
    this.#setHearing(false)
    if (!this.#isClosed()) {
      for (const { onError } of this.#subscriptions.keys()) onError(permanent ?? error)
    }
    return permanent !== undefined && this.#options.isAway() ? Infinity : undefined
  }

  async #dropEar(politelyMs: number): Promise<void> {
    const ear = this.#ear
    if (ear === undefined) return
    this.#ear = undefined
    const ended = (async () => ear.subscriber.close())()
    ended.catch(() => undefined)
    if (politelyMs > 0) await within(politelyMs, ended, 'closing').catch(() => undefined)
    ear.socket.destroy()
  }

  #setHearing(hearing: boolean): void {
    for (const [{ onChange }, its] of this.#subscriptions) {
      if (its.hearing === hearing || (hearing && its.channel === undefined)) continue
      its.hearing = hearing
      onChange(hearing)
    }
  }
}
