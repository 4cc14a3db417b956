/** What has happened, for people: the last steps when something is wrong, and at the end how often each thing happened. */
import type { Fault, Operation } from './steps.js'

const SHOWN = 40

type Kind = 'operations' | 'faults' | 'checks'

export class History {
  readonly #startedMs = Date.now()
  readonly #lines: { readonly atMs: number; readonly text: string }[] = []
  readonly #counts: Record<Kind, Map<string, number>> = {
    operations: new Map(),
    faults: new Map(),
    checks: new Map(),
  }

  note(text: string, atMs = Date.now()): void {
    this.#lines.push({ atMs, text })
    if (this.#lines.length > 20 * SHOWN) this.#lines.splice(0, 10 * SHOWN)
  }

  step(kind: 'operations' | 'faults', step: Operation | Fault): void {
    this.count(kind, step.do)
    this.note(told(step))
  }

  count(kind: Kind, what: string, times = 1): void {
    const counts = this.#counts[kind]
    counts.set(what, (counts.get(what) ?? 0) + times)
  }

  /** Seconds since the beginning, as they stand in the history. */
  at(ms: number): string {
    return `${((ms - this.#startedMs) / 1_000).toFixed(3)} s`
  }

  /** The last of it, up to a moment and a little more. */
  recent(untilMs = Date.now()): string {
    const lines = this.#lines.filter(({ atMs }) => atMs <= untilMs + 1_000).slice(-SHOWN)
    return lines.map(({ atMs, text }) => `  ${this.at(atMs).padStart(10)}  ${text}`).join('\n')
  }

  /** 'operations 812: join 211, …' for each kind. */
  get summary(): string {
    return Object.entries(this.#counts)
      .map(([kind, counts]) => {
        const sorted = [...counts].sort(([, a], [, b]) => b - a)
        const sum = sorted.reduce((total, [, count]) => total + count, 0)
        return `${kind} ${sum}: ${sorted.map(([what, count]) => `${what} ${count}`).join(', ')}`
      })
      .join('\n')
  }

  total(kind: Kind): number {
    return [...this.#counts[kind].values()].reduce((sum, count) => sum + count, 0)
  }
}

/** 'freeze, places 0,3, direction both'. */
function told(step: Operation | Fault): string {
  const { do: what, ...rest } = step
  const details = Object.entries(rest).flatMap(([name, value]: [string, unknown]) =>
    name === 'atMs' ? [] : [`${name} ${typeof value === 'string' ? value : JSON.stringify(value)}`],
  )
  return [what, ...details].join(', ')
}
