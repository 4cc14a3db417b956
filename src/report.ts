/** How the library speaks: to the logger it was given, and on diagnostics channels. Never to the console. */
import diagnostics from 'node:diagnostics_channel'
import { monotonicMs } from './clock.js'
import { MembershipError } from './errors.js'

/**
 * Structural; pino and console fit. All details have `cluster`; those of an error have it as `err`, the key
 * under which pino prints errors, and what was being done as `doing`.
 */
export interface Logger {
  /** What repeats while a trouble lasts, and that it is over. */
  debug(details: object, message: string): void
  /** A lease began or was given up; the mode of the cluster changed. */
  info(details: object, message: string): void
  /**
   * A lease was lost, the database cannot be reached, or something failed that is tried again: once when it
   * begins, then once a minute at most.
   */
  warn(details: object, message: string): void
  /** The database lost commits, or its log does not fit the snapshot: everything was read anew. */
  error(details: object, message: string): void
}

/**
 * Channels, each with `{ cluster, ... }` as its message:
 * `pg-membership:snapshot` (revision, members, full), `pg-membership:heartbeat` (registrations, durationMs),
 * `pg-membership:sweep` (removed, obstacles), `pg-membership:lease` (id, token, state, error: why it ended),
 * `pg-membership:status` (mode), `pg-membership:error` (doing, error).
 */
const channels = {
  snapshot: diagnostics.channel('pg-membership:snapshot'),
  heartbeat: diagnostics.channel('pg-membership:heartbeat'),
  sweep: diagnostics.channel('pg-membership:sweep'),
  lease: diagnostics.channel('pg-membership:lease'),
  status: diagnostics.channel('pg-membership:status'),
  error: diagnostics.channel('pg-membership:error'),
}

/** What goes on in the background, and may fail. */
export type Activity = 'deregister' | 'heartbeat' | 'listen' | 'refresh' | 'sweep' | 'write'

const REPEAT_AFTER_MS = 60_000

export class Report {
  readonly #cluster: string
  readonly #logger: Logger | undefined
  readonly #warnedMs = new Map<string, number>()
  /** The last error of each activity that has not succeeded since; the newest comes last. */
  readonly #troubles = new Map<Activity, Error>()

  constructor(cluster: string, logger: Logger | undefined) {
    this.#cluster = cluster
    this.#logger = logger
  }

  /** The newest trouble that is not over. */
  get lastError(): Error | undefined {
    return [...this.#troubles.values()].at(-1)
  }

  /**
   * Something went wrong in the background; it will be tried again. One trouble warns once: what follows until
   * it is over is for debugging, unless waiting cannot cure it, or a minute has passed.
   */
  failed(doing: Activity, error: Error): void {
    const inTrouble = this.#troubles.delete(doing)
    this.#troubles.set(doing, error)
    this.publish('error', { doing, error })
    const lasting = error instanceof MembershipError
    const warns = this.#isNews(inTrouble && !lasting ? doing : `${doing}: ${error.message}`)
    // Until it is over, or for a minute.
    if (warns) this.#warnedMs.set(doing, monotonicMs())
    this.log(warns ? 'warn' : 'debug', { doing, err: error }, `${doing} failed: ${described(error)}`)
  }

  /** Once more, or for the first time. */
  succeeded(doing: Activity): void {
    if (this.#troubles.delete(doing)) this.log('debug', { doing }, `${doing} works again`)
  }

  /** Not said in the last minute. */
  #isNews(message: string): boolean {
    if (monotonicMs() < (this.#warnedMs.get(message) ?? -Infinity) + REPEAT_AFTER_MS) return false
    // Messages may hold changing parts.
    if (this.#warnedMs.size >= 100) this.#warnedMs.clear()
    this.#warnedMs.set(message, monotonicMs())
    return true
  }

  publish(channel: keyof typeof channels, details: object): void {
    if (channels[channel].hasSubscribers) {
      channels[channel].publish({ cluster: this.#cluster, ...details })
    }
  }

  /** A logger that throws, or rejects, must not break what it is told about. */
  log(level: keyof Logger, details: object, message: string): void {
    try {
      const logged: unknown = this.#logger?.[level]({ cluster: this.#cluster, ...details }, message)
      Promise.resolve(logged).catch(() => undefined)
    } catch {
      // There is nobody left to tell.
    }
  }
}

/** With its SQLSTATE or Node's code, which is all there is when several addresses were tried in vain. */
function described(error: Error): string {
  const text: unknown = error.message
  const message = typeof text === 'string' ? text : ''
  const { code } = ((error instanceof MembershipError ? error.cause : error) ?? {}) as { code?: unknown }
  return typeof code !== 'string' || message.includes(code) ? message : `${message} (${code})`.trimStart()
}
