/** Options of any cluster: their defaults and their ranges. */
import type { Logger } from '../api/logger.js'
import { MAX_NAME_BYTES, refuse, requireText } from '../kit/options.js'

export { checkOptions, checkWaitOptions, nearest, refuse, requireText } from '../kit/options.js'

/** Times of one cluster, all in milliseconds. */
export interface Timing {
  readonly ttlMs: number
  readonly heartbeatMs: number
  readonly pollMs: number
  readonly crashGraceMs: number | false
  readonly closeTimeoutMs: number
}

const TTL_RANGE_MS = [1_000, 86_400_000] as const

/** Returns a name that PostgreSQL can store as text, or throws. */
export function clusterName(name: unknown): string {
  requireText('name', name, MAX_NAME_BYTES)
  return name
}

export function timing(options: {
  readonly ttlMs?: unknown
  readonly heartbeatMs?: unknown
  readonly pollMs?: unknown
  readonly crashGraceMs?: unknown
  readonly closeTimeoutMs?: unknown
}): Timing {
  const ttlMs = milliseconds('ttlMs', options.ttlMs ?? 15_000, ...TTL_RANGE_MS)
  const heartbeatMs = milliseconds(
    'heartbeatMs',
    options.heartbeatMs ?? ttlMs / 3,
    100,
    ttlMs / 2,
    'ttlMs / 2',
  )
  const crashGraceMs = options.crashGraceMs ?? 400
  return {
    ttlMs,
    heartbeatMs,
    pollMs: milliseconds('pollMs', options.pollMs ?? heartbeatMs, 100, TTL_RANGE_MS[1]),
    crashGraceMs:
      crashGraceMs === false ? false : milliseconds('crashGraceMs', crashGraceMs, 50, ttlMs / 2, 'ttlMs / 2'),
    closeTimeoutMs: milliseconds('closeTimeoutMs', options.closeTimeoutMs ?? 5_000, 0, 3_600_000),
  }
}

export function loggerOption(logger: unknown): Logger | undefined {
  if (logger === undefined) return undefined
  const levels = ['debug', 'info', 'warn', 'error'] as const
  const fits =
    typeof logger === 'object' &&
    logger !== null &&
    levels.every((level) => typeof (logger as Record<string, unknown>)[level] === 'function')
  return fits ? (logger as Logger) : refuse('logger', logger, `have the methods ${levels.join(', ')}`)
}

export function onLostOption(onLost: unknown = 'register-again'): 'register-again' | 'stay-out' {
  if (onLost === 'register-again' || onLost === 'stay-out') return onLost
  return refuse('onLost', onLost, "be 'register-again' or 'stay-out'")
}

function milliseconds(option: string, value: unknown, min: number, max: number, maxName?: string): number {
  if (typeof value === 'number' && value >= min && value <= max) return value
  const most = maxName === undefined ? String(max) : `${String(max)} (${maxName})`
  return refuse(option, value, `be a number of milliseconds from ${String(min)} to ${most}`)
}
