/** The refusal of options, in words: which option, which value, and what it must be. */
import { OptionError } from '../api/errors.js'

/** Of clusters, spaces and pools. */
export const MAX_NAME_BYTES = 255

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

export function refuse(option: string, value: unknown, must: string): never {
  throw new OptionError(`Option ${option} must ${must}, not ${described(value)}`)
}

function described(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value)
  if (typeof value === 'function') return 'a function'
  if (typeof value === 'object' && value !== null) return Array.isArray(value) ? 'an array' : 'an object'
  return String(value)
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
