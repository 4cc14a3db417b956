/** The lease of a registration: how long to trust it, and the timer that ends the trust. */
import { MembershipLostError } from '../../api/errors.js'
import type { Lease } from '../../api/lease.js'
import { monotonicMs } from '../../kit/clock.js'
import { allowManyListeners } from '../../kit/waiting.js'

/**
 * The end of the trust in a registration that was renewed by an attempt begun at `startedMs`.
 *
 * The server counts the ttl from some moment after that, so nobody can see the member leave before the ttl is over.
 * The margin of a twentieth is for clocks that run at different speeds, and for the application to react to the abort.
 */
export function trustedUntil(startedMs: number, ttlMs: number): number {
  return startedMs + ttlMs * 0.95
}

/** A lease that ends by itself, by a timer that no hanging query can delay. */
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

  /** Checks the clock at each read: after a stall of the process, code may run before the timer does. */
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

  // A renewal does not touch the timer, which checks again when it fires: a process may have thousands of leases.
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
