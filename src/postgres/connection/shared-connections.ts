/**
 * A process's connections: H for heartbeats and refreshes, which never wait for a lock; W for statements that may
 * wait; and the listener. Several clusters may share them. They are closed when the last of these clusters closes.
 *
 * All have the session as application_name. The process counts as alive while any of them is there.
 *
 * While H cannot be opened, no other connection is tried. A caller that needs W or the listener tries H instead, so
 * that the process makes no attempts but those of H. When H is back, everything is tried at once.
 *
 * H and W lead to one server. After a failover, new connections may lead to another server while the old primary
 * keeps those that it has. A process that sweeps on one and sends its heartbeats to the other would remove the living.
 */
import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import { ClosedError } from '../../api/errors.js'
import type { Connection, Connections } from '../options.js'
import { Listener } from './listener.js'
import { SingleConnection } from './single-connection.js'

const IDLE_MS = 10_000
/** A little longer than the functions that W calls wait for locks. */
const LOCK_WAIT_MS = 3_500
const MAX_ATTEMPT_MS = 2_500
const MAX_BACKOFF_MS = 1_000

/** A cluster that uses the connections. */
export interface User {
  /** H was lost. */
  readonly lost: () => void
  /** H is open, perhaps again. */
  readonly reached: () => void
  /** The longest wait between two attempts to open H. */
  readonly patienceMs: () => number
}

const byHandle = new WeakMap<object, SharedConnections>()

export class SharedConnections {
  /** What users get. It has no fields, so that they cannot reach the connections. */
  readonly handle: Connections = Object.freeze({})
  readonly session: string
  readonly heartbeats: SingleConnection
  readonly writes: SingleConnection
  readonly listener: Listener | undefined
  /** The clusters that have not closed yet: the ttl of each. */
  readonly #attached = new Set<{ readonly ttlMs: number }>()
  /** The clusters that have begun to read or write. */
  readonly #users = new Set<User>()
  #closed = false

  /** undefined: this is no handle. */
  static behind(handle: unknown): SharedConnections | undefined {
    return byHandle.get(handle as object)
  }

  constructor(connection: Connection, listenConnection: Connection | false | undefined) {
    byHandle.set(this.handle, this)
    this.session = sessionName()
    this.heartbeats = new SingleConnection({
      connection,
      session: this.session,
      timeoutMs: MAX_ATTEMPT_MS,
      maxBackoffMs: () => Math.min(MAX_BACKOFF_MS, ...[...this.#users].map((user) => user.patienceMs())),
      onServer: (server, before) => {
        this.writes.leaveOther(server)
        if (before !== undefined && before !== server) this.listener?.leave()
        this.listener?.retry()
        for (const { reached } of this.#users) reached()
      },
      onLost: () => {
        for (const { lost } of this.#users) lost()
      },
    })
    this.writes = new SingleConnection({
      connection,
      session: this.session,
      timeoutMs: LOCK_WAIT_MS + MAX_ATTEMPT_MS,
      idleMs: IDLE_MS,
      maxBackoffMs: () => MAX_BACKOFF_MS,
      before: async () => {
        if (this.heartbeats.isAway) await this.heartbeats.isDirect()
      },
      onServer: (server) => this.heartbeats.leaveOther(server),
    })
    if (listenConnection !== false) {
      this.listener = new Listener({
        session: this.session,
        connection: listenConnection ?? connection,
        // If queries go through a pooler and there is no other address, LISTEN would be lost.
        allowed: async () => (await this.heartbeats.isDirect()) || listenConnection !== undefined,
        isAway: () => this.heartbeats.isAway,
        // W is not opened only for this.
        notify: (channel, payload) =>
          (this.writes.isOpen ? this.writes : this.heartbeats).run('select pg_catalog.pg_notify($1, $2)', [
            channel,
            payload,
          ]),
      })
    }
  }

  /** Returns a function that detaches. */
  attach(ttlMs: number): (deadlineMs: number) => Promise<void> {
    if (this.#closed) throw new ClosedError('These connections are closed')
    const attached = { ttlMs }
    this.#attached.add(attached)
    this.#setTimeouts()
    return async (deadlineMs) => {
      this.#attached.delete(attached)
      if (this.#attached.size === 0) await this.#close(deadlineMs)
      else this.#setTimeouts()
    }
  }

  /** Calls this user back from now on. Returns a function that ends it. */
  use(user: User): () => void {
    this.#users.add(user)
    return () => this.#users.delete(user)
  }

  /** An attempt that takes longer than a quarter of the ttl leaves no time for another. */
  #setTimeouts(): void {
    const attemptMs = Math.min(MAX_ATTEMPT_MS, ...[...this.#attached].map(({ ttlMs }) => ttlMs / 4))
    this.heartbeats.timeoutMs = attemptMs
    this.writes.timeoutMs = LOCK_WAIT_MS + attemptMs
  }

  /** Called when the last cluster has detached. Destroys at the deadline what does not answer. */
  async #close(deadlineMs: number): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await Promise.all([
      this.listener?.close(deadlineMs),
      this.heartbeats.close(deadlineMs),
      this.writes.close(deadlineMs),
    ])
  }
}

/** ASCII and under 64 bytes, or PostgreSQL would change it; readable in pg_stat_activity. */
function sessionName(): string {
  const host = hostname()
    .replace(/[^A-Za-z0-9.-]/g, '')
    .slice(0, 20)
  return `pg-membership ${host} ${String(process.pid)} ${randomBytes(6).toString('hex')}`
}
