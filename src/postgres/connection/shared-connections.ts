/**
 * A process's connections: H for heartbeats and refreshes, which never waits on a lock; W for whatever
 * may wait; the listener. Several clusters may share them; the last to close closes them.
 *
 * All carry one session name as application_name: while any of them is there, the process is.
 *
 * While H cannot be opened, nothing else is tried: who needs W or the listener tries H, and all of the process
 * together make its attempts. When it is back, everybody tries at once.
 *
 * H and W lead to one server. After a failover new connections may lead to another one while the old
 * primary keeps those that it has: who sweeps there and sends its heartbeats here would remove the living.
 */
import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import { ClosedError } from '../../api/errors.js'
import type { Connection } from '../options.js'
import { Listener } from './listener.js'
import { SingleConnection } from './single-connection.js'

const IDLE_MS = 10_000
/** The longest that the functions which W calls wait for locks, and some. */
const LOCK_WAIT_MS = 3_500
const MAX_ATTEMPT_MS = 2_500
const MAX_BACKOFF_MS = 1_000

/** A cluster that uses the connections. */
export interface User {
  /** H was lost. */
  readonly lost: () => void
  /** H is there, perhaps again. */
  readonly reached: () => void
  /** How long to wait at most between two attempts to open H. */
  readonly patienceMs: () => number
}

export class SharedConnections {
  readonly session: string
  readonly heartbeats: SingleConnection
  readonly writes: SingleConnection
  readonly listener: Listener | undefined
  /** The ttl of each cluster that they are open for. */
  readonly #attached = new Set<{ readonly ttlMs: number }>()
  /** The clusters that read or write by now. */
  readonly #users = new Set<User>()
  #closed = false

  constructor(connection: Connection, listenConnection: Connection | false | undefined) {
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
        /** Where queries go through a pooler and no other address was given, LISTEN would be lost. */
        allowed: async () => (await this.heartbeats.isDirect()) || listenConnection !== undefined,
        // The connection for writes is not opened for that.
        notify: (channel, payload) =>
          (this.writes.isOpen ? this.writes : this.heartbeats).run('select pg_notify($1, $2)', [
            channel,
            payload,
          ]),
      })
    }
  }

  /** Returns how to detach. */
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

  /** From now on; returns how to end it. */
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

  /** When nobody uses them any more; destroys at the deadline what does not answer. */
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
