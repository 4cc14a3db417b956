/** Stays as bars over time, one line for each member. */
import type { Arguments } from './arguments.js'
import { type Colour, paint } from './colours.js'
import { cut, duration, time, width } from './table.js'
import { inOneLine } from './visible.js'

/** The width without a terminal. */
const DEFAULT_COLUMNS = 100
const MIN_CELLS = 20
const SHORT_ID = 12
/** A mark of the axis for each so many cells. */
const TICK_CELLS = 20
const DAY_MS = 86_400_000

const BAR = '█'
/** The last cell of a bar says how the stay ended. */
const ENDS: Readonly<Record<string, { readonly mark: string; readonly colour: Colour }>> = {
  deregistered: { mark: 'd', colour: 'yellow' },
  superseded: { mark: 's', colour: 'yellow' },
  removed: { mark: 'r', colour: 'red' },
  expired: { mark: 'e', colour: 'red' },
  crashed: { mark: 'c', colour: 'red' },
}

export interface Stay {
  readonly cluster: string
  readonly member: string
  readonly token: string
  readonly joined_at: Date
  readonly left_at: Date | null
  readonly stayed_ms: number
  readonly reason: string | null
  readonly data: string | null
  readonly by_role: string | null
  readonly note: string | null
  /** The period that was asked about, in milliseconds since 1970; null: from the beginning. Until now at most. */
  readonly since_ms: number | null
  readonly until_ms: number
}

interface Lane {
  readonly cluster: string
  readonly member: string
  readonly stays: Stay[]
}

/** The rows have at least one; they are of one question. */
export function timeline(
  rows: readonly Stay[],
  args: Arguments,
  { cluster, limit }: { readonly cluster: string | undefined; readonly limit: number },
): string {
  const { columns = DEFAULT_COLUMNS } = args.surroundings
  const fromMs = rows[0]?.since_ms ?? Math.min(...rows.map((row) => row.joined_at.getTime()))
  const untilMs = rows[0]?.until_ms ?? fromMs
  const lanes = lanesOf(rows)
  const name = ({ cluster: of, member }: Lane): string => {
    const id = args.flag('wide') ? member : `…${member.slice(-SHORT_ID)}`
    return cluster === undefined ? `${inOneLine(of)}  ${id}` : id
  }
  const names = lanes.map(name)
  const margin = Math.max(...names.map(width)) + 2
  const cells = Math.max(MIN_CELLS, columns - margin)
  const cellMs = Math.max(1, (untilMs - fromMs) / cells)
  const cellOf = (ms: number): number => Math.min(cells - 1, Math.max(0, Math.floor((ms - fromMs) / cellMs)))
  const bar = ({ stays }: Lane): string => {
    const painted = Array.from({ length: cells }, () => ' ')
    for (const stay of stays) {
      const end = stay.left_at && stay.left_at.getTime() <= untilMs ? ENDS[stay.reason ?? ''] : undefined
      const last = cellOf(stay.left_at?.getTime() ?? untilMs)
      const full = paint(BAR, end?.colour ?? 'green', args.surroundings)
      painted.fill(full, cellOf(stay.joined_at.getTime()), last + 1)
      if (end) painted[last] = paint(end.mark, end.colour, args.surroundings)
    }
    return painted.join('').trimEnd()
  }
  const ended = Object.entries(ENDS)
    .filter(([reason]) => rows.some((row) => row.reason === reason))
    .map(([reason, { mark }]) => `${mark} ${reason}`)
  return [
    `${time(new Date(fromMs))} to ${time(new Date(untilMs))}, ${duration(cellMs)} each cell`,
    ' '.repeat(margin) + axis(fromMs, cellMs, cells),
    ...lanes.map((lane, n) => padded(names[n] ?? '', margin) + bar(lane)),
    cut([`${BAR} here`, ...ended].join('   '), columns),
    ...(rows.length >= limit ? [`Only the newest ${String(limit)} stays: --limit N shows more.`] : []),
  ].join('\n')
}

function padded(text: string, cells: number): string {
  return text + ' '.repeat(Math.max(0, cells - width(text)))
}

/** By cluster, and then who came first. */
function lanesOf(rows: readonly Stay[]): readonly Lane[] {
  const lanes = new Map<string, Lane>()
  for (const stay of [...rows].sort((a, b) => Number(a.joined_at) - Number(b.joined_at))) {
    const key = JSON.stringify([stay.cluster, stay.member])
    const lane = lanes.get(key) ?? { cluster: stay.cluster, member: stay.member, stays: [] }
    lane.stays.push(stay)
    lanes.set(key, lane)
  }
  return [...lanes.values()].sort((a, b) => (a.cluster < b.cluster ? -1 : a.cluster > b.cluster ? 1 : 0))
}

function axis(fromMs: number, cellMs: number, cells: number): string {
  let text = ''
  for (let cell = 0; cell < cells; cell += TICK_CELLS) {
    const at = new Date(fromMs + cell * cellMs).toISOString()
    const spanMs = cellMs * cells
    const label = spanMs > 2 * DAY_MS ? at.slice(5, 16).replace('T', ' ') : at.slice(11, 19)
    if (cell + label.length + 1 <= cells) text = `${text.padEnd(cell)}|${label}`
  }
  return text
}
