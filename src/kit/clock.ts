/**
 * Milliseconds that only ever go forward, also while the machine is suspended.
 *
 * The monotonic clock stops during a suspension; the time since boot does not. On some systems the time since boot
 * is coarse, so it gets a second of slack. Taking the larger of the two can only make a lease end earlier.
 */
import { uptime } from 'node:os'
import { performance } from 'node:perf_hooks'

const UPTIME_SLACK_MS = 1_000
/** Not at every call: on Linux the time since boot is read from a file, which costs 15 times the monotonic clock. */
const READ_UPTIME_MS = 100
const performanceAtStart = performance.now()
const uptimeAtStart = uptime()

let readMs = -Infinity
let wallReadMs = 0
let suspendedMs = 0

export function monotonicMs(): number {
  const awakeMs = performance.now() - performanceAtStart
  const wallMs = Date.now()
  // A suspension moves the wall clock. If something else moves it back, the time since boot is still read soon.
  const wallMovedMs = Math.abs(wallMs - wallReadMs - (awakeMs - readMs))
  if (awakeMs >= readMs + READ_UPTIME_MS || wallMovedMs > READ_UPTIME_MS) {
    readMs = awakeMs
    wallReadMs = wallMs
    suspendedMs = Math.max(suspendedMs, (uptime() - uptimeAtStart) * 1_000 - UPTIME_SLACK_MS - awakeMs)
  }
  return awakeMs + suspendedMs
}

/** The last multiple of `gridMs` up to `atMs`. Work of one process that uses the same grid is done together. */
export function sharedMoment(atMs: number, gridMs: number): number {
  return Math.floor(atMs / gridMs) * gridMs
}

/**
 * Estimates the server's clock: the time in its last answer, plus the time that has passed here since the answer came.
 * The estimate is behind by the time that the answer was under way. It is never ahead, unless the two clocks drift apart.
 */
export class ServerClock {
  #saidMs = 0
  #heardMs = 0

  hear(saidMs: number, nowMs: number): void {
    this.#saidMs = saidMs
    this.#heardMs = nowMs
  }

  at(nowMs: number): number {
    return this.#saidMs + nowMs - this.#heardMs
  }
}
