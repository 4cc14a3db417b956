/** How the library speaks: to the logger it was given, and on diagnostics channels. Never to the console. */
import type { Activity } from '../api/diagnostics.js'
import { MembershipError } from '../api/errors.js'
import type { Logger } from '../api/logger.js'
import { monotonicMs } from '../kit/clock.js'
import { type EventDetails, type EventName, publish } from './events.js'

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

  /** Nobody does it any more, whether or not it has succeeded. */
  givenUp(doing: Activity): void {
    this.#troubles.delete(doing)
  }

  /** Not said in the last minute. */
  #isNews(message: string): boolean {
    if (monotonicMs() < (this.#warnedMs.get(message) ?? -Infinity) + REPEAT_AFTER_MS) return false
    // Messages may hold changing parts.
    if (this.#warnedMs.size >= 100) this.#warnedMs.clear()
    this.#warnedMs.set(message, monotonicMs())
    return true
  }

  publish<N extends EventName>(name: N, details: EventDetails<N>): void {
    publish(this.#cluster, name, details)
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

/** With the database's code or Node's, which is all there is when several addresses were tried in vain. */
function described(error: Error): string {
  const text: unknown = error.message
  const message = typeof text === 'string' ? text : ''
  const { code } = ((error instanceof MembershipError ? error.cause : error) ?? {}) as { code?: unknown }
  return typeof code !== 'string' || message.includes(code) ? message : `${message} (${code})`.trimStart()
}
