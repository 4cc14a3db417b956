/** Trust in a registration, and its end. */
import { monotonicMs } from './clock.js'
import { MembershipLostError } from './errors.js'
import { allowManyListeners } from './waiting.js'

/** One period during which this process may trust that it is registered. */
export interface Lease {
  /** The token of the registration. The next lease has the same token unless others saw this member gone. */
  readonly token: number
  /**
   * Aborts when the trust ends: 95 % of the ttl after the last good heartbeat began, or when others removed the
   * registration. Its `reason` is then a MembershipLostError; it is a DeregisteredError or a ClosedError when
   * this process gave the registration up.
   */
  readonly signal: AbortSignal
}

/**
 * Until when a registration can be trusted that was renewed by an attempt begun at `startedMs`.
 *
 * The server counted its ttl from some moment after that, so nobody can see the member gone before;
 * the margin of a twentieth is for clocks that run at different speeds, and for the abort to be heard.
 */
export function trustedUntil(startedMs: number, ttlMs: number): number {
  return startedMs + ttlMs * 0.95
}

/** A lease that ends by itself, by a timer that no hanging query can hold up. */
export class TimedLease implements Lease {
  readonly token: number
  readonly signal: AbortSignal
  readonly #controller = new AbortController()
  readonly #ttlMs: number
  #untilMs: number
  #timer: NodeJS.Timeout | undefined

  constructor(token: number, ttlMs: number, startedMs: number) {
    this.token = token
    this.signal = this.#controller.signal
    this.#ttlMs = ttlMs
    this.#untilMs = trustedUntil(startedMs, ttlMs)
    allowManyListeners(this.signal)
    this.#arm()
  }

  /** By the clock at this moment: code that runs first after a stall sees the truth. */
  get trusted(): boolean {
    if (!this.signal.aborted && monotonicMs() >= this.#untilMs) this.#expire()
    return !this.signal.aborted
  }

  renew(startedMs: number): void {
    this.#untilMs = Math.max(this.#untilMs, trustedUntil(startedMs, this.#ttlMs))
  }

  end(reason: Error): void {
    clearTimeout(this.#timer)
    this.#controller.abort(reason)
  }

  // The timer looks again instead of being set anew at each renewal: a process may hold thousands.
  #arm(): void {
    if (this.#ttlMs === Infinity) return
    const leftMs = Math.max(0, this.#untilMs - monotonicMs())
    this.#timer = setTimeout(() => this.trusted && this.#arm(), leftMs)
    this.#timer.unref()
  }

  #expire(): void {
    this.end(new MembershipLostError('No heartbeat got through in time', { reason: 'unreachable' }))
  }
}
