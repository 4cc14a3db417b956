/**
 * Milliseconds that only ever go forward, also while the machine is suspended.
 *
 * The monotonic clock stops during a suspension; the time since boot does not (it is coarse on some
 * systems, hence the second of slack). The larger of the two can only make a lease end earlier.
 */
import { uptime } from 'node:os'
import { performance } from 'node:perf_hooks'

const UPTIME_SLACK_MS = 1_000
/** Asking for the time since boot reads a file on Linux: 15 times the price of the monotonic clock. */
const ASK_AGAIN_MS = 100
const performanceAtStart = performance.now()
const uptimeAtStart = uptime()

let askedMs = -Infinity
let wallAskedMs = 0
let suspendedMs = 0

export function monotonicMs(): number {
  const awakeMs = performance.now() - performanceAtStart
  const wallMs = Date.now()
  // A suspension moves the wall clock; should something else move it back, the next question is near all the same.
  const wallMovedMs = Math.abs(wallMs - wallAskedMs - (awakeMs - askedMs))
  if (awakeMs >= askedMs + ASK_AGAIN_MS || wallMovedMs > ASK_AGAIN_MS) {
    askedMs = awakeMs
    wallAskedMs = wallMs
    suspendedMs = Math.max(suspendedMs, (uptime() - uptimeAtStart) * 1_000 - UPTIME_SLACK_MS - awakeMs)
  }
  return awakeMs + suspendedMs
}

/** A moment not after `atMs`, by less than `gridMs`, that others of this process choose as well: they go together. */
export function sharedMoment(atMs: number, gridMs: number): number {
  return Math.floor(atMs / gridMs) * gridMs
}

/**
 * Another clock, as it was last heard: what it said, and the time that has passed here since the answer came.
 * It runs late by as long as that answer was under way, never early (but for how far the two drift apart).
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
