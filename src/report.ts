/** How the library speaks: to the logger it was given, and on diagnostics channels. Never to the console. */
import diagnostics from 'node:diagnostics_channel'
import { monotonicMs } from './clock.js'

/** Structural; pino and console fit. */
export interface Logger {
  debug(details: object, message: string): void
  info(details: object, message: string): void
  warn(details: object, message: string): void
  error(details: object, message: string): void
}

/**
 * Channels, each with `{ cluster, ... }` as its message:
 * `pg-membership:snapshot` (revision, members, full), `pg-membership:heartbeat` (registrations, durationMs),
 * `pg-membership:sweep` (removed, obstacles), `pg-membership:lease` (id, token, state, reason),
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

const REPEAT_AFTER_MS = 60_000

export class Report {
  readonly #cluster: string
  readonly #logger: Logger | undefined
  readonly #warnedMs = new Map<string, number>()
  #lastError: Error | undefined

  constructor(cluster: string, logger: Logger | undefined) {
    this.#cluster = cluster
    this.#logger = logger
  }

  /** The last trouble, kept for whoever asks afterwards. */
  get lastError(): Error | undefined {
    return this.#lastError
  }

  /** Something went wrong in the background; it will be tried again. Repetitions are for debugging only. */
  failed(doing: string, error: Error): void {
    this.#lastError = error
    this.publish('error', { doing, error })
    const message = `${doing} failed: ${error.message}`
    const repeated = monotonicMs() < (this.#warnedMs.get(message) ?? -Infinity) + REPEAT_AFTER_MS
    if (!repeated) {
      // Messages may hold changing parts.
      if (this.#warnedMs.size >= 100) this.#warnedMs.clear()
      this.#warnedMs.set(message, monotonicMs())
    }
    this.log(repeated ? 'debug' : 'warn', { doing, error }, message)
  }

  publish(channel: keyof typeof channels, details: object): void {
    if (channels[channel].hasSubscribers) {
      channels[channel].publish({ cluster: this.#cluster, ...details })
    }
  }

  /** A logger that throws must not break what it is told about. */
  log(level: keyof Logger, details: object, message: string): void {
    try {
      this.#logger?.[level]({ cluster: this.#cluster, ...details }, message)
    } catch {
      // There is nobody left to tell.
    }
  }
}
