/** What the demo prints: plain lines, so that it reads the same in a pipe, and colours on a terminal. */
import { styleText } from 'node:util'
import type { Actor } from './actor.js'
import { dataOf } from './messages.js'

const WIDTH = 84
const NAME_WIDTH = 7
const CELL_WIDTH = 12

const isColourful = process.stdout.isTTY && !process.env.NO_COLOR && process.stdout.hasColors()

export function paint(style: Parameters<typeof styleText>[0], text: string): string {
  return isColourful ? styleText(style, text) : text
}

export function say(text = ''): void {
  console.log(text === '' ? '' : `  ${text}`.trimEnd())
}

/** What was waited for, and how long it took. */
export function done(text: string): void {
  say(`${paint('green', '✓')} ${text}`)
}

export function heading(title: string): void {
  console.log(`\n${paint(['bold', 'cyan'], `── ${title} `.padEnd(WIDTH, '─'))}\n`)
}

export function duration(ms: number): string {
  return ms < 1000 ? `${String(Math.max(1, Math.round(ms)))} ms` : `${(ms / 1000).toFixed(1)} s`
}

/** The last table, to tell what has changed since. */
let shown = new Map<string, string>()

/** Who sees whom: a line for each process, a column for each member. */
export function showViews(actors: readonly Actor[]): void {
  const names = actors.map(({ name }) => `  ${name}`.padEnd(CELL_WIDTH)).join('')
  say(paint('dim', ' '.repeat(NAME_WIDTH) + names))
  const now = new Map<string, string>()
  for (const viewer of actors) {
    const cells = actors.map((actor) => {
      const text = cell(viewer, actor)
      const key = `${viewer.name} sees ${actor.name}`
      now.set(key, text)
      const isNews = shown.size > 0 && shown.get(key) !== text
      return paint(cellStyle(text, isNews, viewer), text.padEnd(CELL_WIDTH))
    })
    say(`${paint('bold', viewer.name.padEnd(NAME_WIDTH))}${cells.join('')}${remark(viewer)}`)
  }
  shown = now
  say()
}

function cell(viewer: Actor, actor: Actor): string {
  if (viewer.fate === 'left' || viewer.fate === 'killed') return ''
  const member = viewer.sees(actor)
  if (member === undefined) return '  ·'
  const isLeader = viewer.members?.[0] === member
  return `${isLeader ? '★' : ' '} #${String(member.token)} ${dataOf(member).state}`
}

function cellStyle(text: string, isNews: boolean, viewer: Actor): Parameters<typeof styleText>[0] {
  if (viewer.fate === 'frozen') return 'blue'
  if (text.endsWith('·')) return isNews ? 'red' : 'dim'
  return isNews ? 'yellow' : 'reset'
}

function remark(viewer: Actor): string {
  switch (viewer.fate) {
    case 'running':
      return paint('dim', `revision ${String(viewer.revision)}`)
    case 'frozen':
      return paint('blue', 'frozen')
    case 'killed':
      return paint('red', 'killed')
    case 'left':
      return paint('dim', 'left')
  }
}

/** The rows of a query, much as psql shows them. */
export function showRows(rows: readonly Readonly<Record<string, string | number | null>>[]): void {
  const columns = Object.keys(rows[0] ?? {})
  const width = (column: string): number =>
    Math.max(column.length, ...rows.map((row) => String(row[column] ?? '').length))
  say(paint('dim', columns.map((column) => column.padEnd(width(column))).join(' │ ')))
  say(paint('dim', columns.map((column) => '─'.repeat(width(column))).join('─┼─')))
  for (const row of rows) {
    const cells = columns.map((column) => String(row[column] ?? '').padEnd(width(column)))
    say(cells.join(paint('dim', ' │ ')))
  }
  say()
}
