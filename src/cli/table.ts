/** Tables, times and durations, written for people. */
import { inOneLine } from './visible.js'

export interface Column<T> {
  readonly title: string
  readonly value: (row: T) => string
  readonly align?: 'right'
  /** Cut to the width that the terminal has left. */
  readonly cut?: boolean
}

export interface TableOptions {
  /** Cut nothing. */
  readonly wide: boolean
  /** The width of the terminal; undefined without one. */
  readonly columns: number | undefined
}

const GAP = '  '
const MIN_CUT = 20
/** The width without a terminal. */
const DEFAULT_CUT = 60

export function table<T>(
  rows: readonly T[],
  columns: readonly Column<T>[],
  { wide, columns: total }: TableOptions,
): string {
  const cells = rows.map((row) => columns.map(({ value }) => inOneLine(value(row))))
  const widths = columns.map(({ title }, n) =>
    Math.max(title.length, ...cells.map((row) => width(row[n] ?? ''))),
  )
  const others = columns.reduce((sum, { cut }, n) => sum + (cut ? 0 : (widths[n] ?? 0) + GAP.length), 0)
  const room = total ? Math.max(MIN_CUT, total - others) : DEFAULT_CUT
  const line = (row: readonly string[]): string =>
    columns
      .map(({ align, cut: mayCut }, n) => {
        const text = mayCut && !wide ? cut(row[n] ?? '', room) : (row[n] ?? '')
        const limit = mayCut && !wide ? Math.min(room, widths[n] ?? 0) : (widths[n] ?? 0)
        const padding = ' '.repeat(Math.max(0, limit - width(text)))
        return align === 'right' ? padding + text : text + padding
      })
      .join(GAP)
      .trimEnd()
  return [line(columns.map(({ title }) => title)), ...cells.map(line)].join('\n')
}

/** 2 units at most: 350ms, 4.2s, 2m 13s, 3h 4m, 12d 5h. */
export function duration(ms: number): string {
  if (ms < 0) return `-${duration(-ms)}`
  if (ms < 999.5) return `${String(Math.round(ms))}ms`
  if (ms < 9_950) return `${(ms / 1000).toFixed(1)}s`
  const s = Math.round(ms / 1000)
  if (s < 60) return `${String(s)}s`
  if (s < 3600) return two(s, 60, 'm', 1, 's')
  if (s < 86_400) return two(s, 3600, 'h', 60, 'm')
  return two(s, 86_400, 'd', 3600, 'h')
}

function two(s: number, large: number, largeUnit: string, small: number, smallUnit: string): string {
  const rest = Math.floor((s % large) / small)
  return `${String(Math.floor(s / large))}${largeUnit}${rest === 0 ? '' : ` ${String(rest)}${smallUnit}`}`
}

/** UTC, to the second. */
export function time(date: Date): string {
  return date.toISOString().replace('T', ' ').replace(/\.\d+/, '')
}

/** At most so wide; what is cut off shows as an ellipsis. */
export function cut(text: string, room: number): string {
  if (width(text) <= room) return text
  let kept = ''
  let used = 1
  for (const { segment } of graphemes.segment(text)) {
    used += graphemeWidth(segment)
    if (used > room) break
    kept += segment
  }
  return `${kept}…`
}

const graphemes = new Intl.Segmenter()
const WIDE =
  /\p{Emoji_Presentation}|\ufe0f|[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{20000}-\u{3fffd}]/u

/** In cells of a terminal. */
export function width(text: string): number {
  if (/^[ -~]*$/.test(text)) return text.length
  return [...graphemes.segment(text)].reduce((sum, { segment }) => sum + graphemeWidth(segment), 0)
}

function graphemeWidth(grapheme: string): number {
  return WIDE.test(grapheme) ? 2 : 1
}
