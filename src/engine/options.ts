/** Options: their defaults, their ranges, and the errors that refuse them. */
import { OptionError } from '../api/errors.js'
import type { Logger } from '../api/logger.js'

/** Times of one cluster, all in milliseconds. */
export interface Timing {
  readonly ttlMs: number
  readonly heartbeatMs: number
  readonly pollMs: number
  readonly crashGraceMs: number | false
  readonly closeTimeoutMs: number
}

const MAX_NAME_BYTES = 255
const TTL_RANGE_MS = [1_000, 86_400_000] as const

/** Returns a name that PostgreSQL can store as text, or throws. */
export function clusterName(name: unknown): string {
  requireText('name', name, MAX_NAME_BYTES)
  return name
}

/** Refuses an option that does not exist: a mistyped name would have no effect, and nobody would notice. */
export function checkOptions(what: string, options: unknown, allowed: readonly string[]): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw new OptionError(`The options of ${what} must be an object, not ${described(options)}`)
  }
  for (const name of Object.keys(options)) {
    if (!allowed.includes(name)) {
      throw new OptionError(`${what} has no option ${described(name)}${nearest(name, allowed)}`)
    }
  }
}

/** The end of a message about a name that is not allowed: suggests a similar one. */
export function nearest(name: string, allowed: readonly string[]): string {
  const distances = allowed.map((word) => distance(name.toLowerCase(), word.toLowerCase()))
  const least = Math.min(...distances)
  const found = allowed[distances.indexOf(least)]
  return found !== undefined && least <= 2 ? `. Did you mean '${found}'?` : ''
}

/** How many letters differ; 1 if one word begins with the other. */
function distance(a: string, b: string): number {
  if (a.length > 2 && b.length > 2 && (a.startsWith(b) || b.startsWith(a))) return 1
  let row = Array.from({ length: b.length + 1 }, (_, n) => n)
  for (let i = 0; i < a.length; i++) {
    const next = [i + 1]
    for (let j = 0; j < b.length; j++) {
      const changed = (row[j] ?? 0) + Number(a[i] !== b[j])
      next.push(Math.min((next[j] ?? 0) + 1, (row[j + 1] ?? 0) + 1, changed))
    }
    row = next
  }
  return row.at(-1) ?? 0
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

export function refuse(option: string, value: unknown, must: string): never {
  throw new OptionError(`Option ${option} must ${must}, not ${described(value)}`)
}

export function requireText(option: string, value: unknown, maxBytes: number): asserts value is string {
  const must = `be a string of 1 to ${maxBytes} bytes of UTF-8, without U+0000 and lone surrogates`
  if (
    typeof value !== 'string' ||
    value === '' ||
    Buffer.byteLength(value) > maxBytes ||
    value.includes('\0') ||
    !value.isWellFormed()
  ) {
    refuse(option, value, must)
  }
}

function milliseconds(option: string, value: unknown, min: number, max: number, maxName?: string): number {
  if (typeof value === 'number' && value >= min && value <= max) return value
  const most = maxName === undefined ? String(max) : `${String(max)} (${maxName})`
  return refuse(option, value, `be a number of milliseconds from ${String(min)} to ${most}`)
}

function described(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value)
  if (typeof value === 'function') return 'a function'
  if (typeof value === 'object' && value !== null) return Array.isArray(value) ? 'an array' : 'an object'
  return String(value)
}

/** Checks what a caller without TypeScript may give. */
export function checkWaitOptions(options: unknown): void {
  if (typeof options !== 'object' || options === null) refuse('signal', options, 'be given as { signal }')
  const { signal } = options as { signal?: unknown }
  if (signal !== undefined && !isSignal(signal)) refuse('signal', signal, 'be an AbortSignal')
}

/** Accepts signals that are not Node's own, too: those of a polyfill, or of another realm. */
function isSignal(signal: unknown): boolean {
  if (typeof signal !== 'object' || signal === null) return false
  const { aborted, addEventListener, removeEventListener } = signal as Record<string, unknown>
  return (
    typeof aborted === 'boolean' &&
    typeof addEventListener === 'function' &&
    typeof removeEventListener === 'function'
  )
}
