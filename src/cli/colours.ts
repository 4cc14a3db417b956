/** Colours, where somebody looks at them. */
import type { Surroundings } from './arguments.js'

const CODES = { red: 31, green: 32, yellow: 33 } as const
export type Colour = keyof typeof CODES

/** As Node decides it: FORCE_COLOR wins over NO_COLOR, and a dumb terminal has none. */
export function hasColours(env: Surroundings['env'], isTerminal: boolean): boolean {
  const forced = env.FORCE_COLOR
  if (forced !== undefined) return !['0', 'false'].includes(forced)
  return isTerminal && !env.NO_COLOR && !isDumb(env)
}

/** It knows no escape sequences. */
export function isDumb(env: Surroundings['env']): boolean {
  return env.TERM === 'dumb'
}

/** The text must have nothing in it that steers a terminal. */
export function paint(text: string, colour: Colour, { hasColours: has }: Surroundings): string {
  return has ? `\u001b[${String(CODES[colour])}m${text}\u001b[39m` : text
}
