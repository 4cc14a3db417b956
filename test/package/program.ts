import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { until } from '../support/until.js'

/** Starting node, on a busy machine. */
const PATIENCE_MS = 25_000

/** A program of this repository, run as a user would, but for the process that npx puts in between. */
export class Program implements AsyncDisposable {
  output = ''
  readonly #file: string
  readonly #child: ChildProcess
  readonly #closed: Promise<unknown>

  constructor(file: string, env: Readonly<Record<string, string>> = {}) {
    this.#file = file
    this.#child = spawn(process.execPath, ['--import', 'tsx', file], {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.#closed = once(this.#child, 'close')
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => (this.output += text))
    }
  }

  /** Waits until it has printed this, since the beginning. */
  async prints(pattern: RegExp): Promise<RegExpExecArray> {
    return until(() => pattern.exec(this.output), {
      withinMs: PATIENCE_MS,
      message: () => `${this.#file} prints ${String(pattern)}, not only\n${this.output}`,
    })
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }

  /** Its exit code, once all that it printed has arrived. */
  async exited(): Promise<number | null> {
    await this.#closed
    return this.#child.exitCode
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.signal('SIGTERM')
    await this.#closed
  }
}
