/** The whole terminal, painted again and again in place. What was there before comes back at the end. */
import type { Surroundings } from './arguments.js'
import { cut } from './table.js'

const ESC = '\u001b'
/** The other screen, without a cursor. Lines that are too long are not wrapped: a window may get narrower. */
const OPEN = `${ESC}[?1049h${ESC}[?25l${ESC}[?7l`
const CLOSE = `${ESC}[?7h${ESC}[?25h${ESC}[?1049l`
const HOME = `${ESC}[H`
const CLEAR_LINE = `${ESC}[K`
const CLEAR_BELOW = `${ESC}[J`

export class Screen implements Disposable {
  readonly #surroundings: Surroundings
  #isOpen = false

  constructor(surroundings: Surroundings) {
    this.#surroundings = surroundings
  }

  /** Nothing in the text may steer a terminal. The first line stays where there is no room for all. */
  draw(text: string): void {
    const { columns = 80, rows = 24, print } = this.#surroundings
    const lines = text.split('\n')
    const isLong = lines.length > rows
    const shown = isLong ? lines.slice(0, Math.max(1, rows - 1)) : lines
    if (isLong) shown.push(`… and ${String(lines.length - shown.length)} more lines`)
    // Cleared before it is written: behind the last cell of a line the cursor stands on that cell.
    const painted = shown
      .map((line, n) => `${n < shown.length - 1 ? CLEAR_LINE : CLEAR_BELOW}${cut(line, columns)}`)
      .join('\r\n')
    print(`${this.#isOpen ? '' : OPEN}${HOME}${painted}`)
    this.#isOpen = true
  }

  /** Gives the terminal back as it was. */
  [Symbol.dispose](): void {
    if (this.#isOpen) this.#surroundings.print(CLOSE)
    this.#isOpen = false
  }
}
