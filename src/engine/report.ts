/** Tells what happens: to the logger of the cluster, and on diagnostics channels. Never to the console. */
import type { Cluster } from '../api/cluster.js'
import type { Activity } from '../api/diagnostics.js'
import { MembershipError } from '../api/errors.js'
import type { Logger } from '../api/logger.js'
import { monotonicMs } from '../kit/clock.js'
import { type MessageDetails, type MessageName, publish } from './diagnostics.js'

const REPEAT_AFTER_MS = 60_000

export class Report {
  readonly #cluster: Cluster
  readonly #logger: Logger | undefined
  readonly #warnedMs = new Map<string, number>()
  /** The last error of each activity that has not succeeded since; the newest comes last. */
  readonly #troubles = new Map<Activity, Error>()

  constructor(cluster: Cluster, logger: Logger | undefined) {
    this.#cluster = cluster
    this.#logger = logger
  }

  /** The newest trouble that is not over. */
  get lastError(): Error | undefined {
    return [...this.#troubles.values()].at(-1)
  }

  /**
   * Something failed in the background; it will be tried again. The first failure is a warning. Until it works
   * again, the next ones are for debugging, except once a minute, and except for a new error that waiting cannot cure.
   */
  failed(doing: Activity, error: Error): void {
    const inTrouble = this.#troubles.delete(doing)
    this.#troubles.set(doing, error)
    this.publish('error', { doing, error })
    const lasting = error instanceof MembershipError
    const warns = this.#isNews(inTrouble && !lasting ? doing : `${doing}: ${error.message}`)
    if (warns) this.#warnedMs.set(doing, monotonicMs())
    this.log(warns ? 'warn' : 'debug', { doing, err: error }, `${doing} failed: ${withCode(error)}`)
  }

  /** This activity has succeeded: it is not in trouble any longer. */
  succeeded(doing: Activity): void {
    if (this.#troubles.delete(doing)) this.log('debug', { doing }, `${doing} works again`)
  }

  /** Nobody does it any more, whether or not it has succeeded. */
  givenUp(doing: Activity): void {
    this.#troubles.delete(doing)
  }

  /** Whether this was not logged in the last minute. */
  #isNews(message: string): boolean {
    if (monotonicMs() < (this.#warnedMs.get(message) ?? -Infinity) + REPEAT_AFTER_MS) return false
    // Messages may have parts that change: without this the map would grow.
    if (this.#warnedMs.size >= 100) this.#warnedMs.clear()
    this.#warnedMs.set(message, monotonicMs())
    return true
  }

  publish<N extends MessageName>(name: N, details: MessageDetails<N> | (() => MessageDetails<N>)): void {
    publish(this.#cluster, name, details)
  }

  /** A logger that throws or rejects must not break the library. */
  log(level: keyof Logger, details: object, message: string): void {
    try {
      const logged: unknown = this.#logger?.[level]({ cluster: this.#cluster.name, ...details }, message)
      Promise.resolve(logged).catch(() => undefined)
    } catch {
      // There is no other way to tell anybody.
    }
  }
}

/** The message, with the error's code: if several addresses of a host failed, there is only a code. */
function withCode(error: Error): string {
  const text: unknown = error.message
  const message = typeof text === 'string' ? text : ''
  const { code } = ((error instanceof MembershipError ? error.cause : error) ?? {}) as { code?: unknown }
  return typeof code !== 'string' || message.includes(code) ? message : `${message} (${code})`.trimStart()
}
