/**
 * Sees to it that a program started here, and its temporary directory, do not outlive this process. When this
 * process ends, even by SIGKILL, the watchdog notices that its stdin has closed, ends the program and removes
 * the directory.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate, setTimeout as sleep } from 'node:timers/promises'

const ESCALATE_AFTER_MS = 10_000

/** Each line it reads names the process to end once the input closes; an empty line, none. $0 is the directory. */
const SCRIPT = `
trap '' HUP INT TERM
while read -r line; do pid=$line; done
if [ -n "$pid" ] && kill -QUIT "$pid"; then
  kill -CONT "$pid"
  for i in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$pid" || break; sleep 0.5; done
fi
rm -rf "$0"
`

export class Watchdog {
  /** Fresh and empty. */
  readonly directory = mkdtempSync(join(tmpdir(), 'pg-membership-'))
  readonly #process: ChildProcess

  constructor() {
    // Detached, so that Ctrl-C in a terminal does not end it together with what it watches.
    this.#process = spawn('/bin/sh', ['-c', SCRIPT, this.directory], {
      cwd: '/',
      detached: true,
      stdio: ['pipe', 'ignore', 'ignore'],
    })
    this.#process.unref()
    this.#process.stdin?.on('error', () => undefined)
  }

  /** This one instead of the one before; undefined: none. */
  watch(pid: number | undefined): void {
    this.#process.stdin?.write(`${String(pid ?? '')}\n`)
  }

  /** Ends what is watched still, and removes the directory. */
  async dismiss(): Promise<void> {
    this.#process.stdin?.end()
    await exit(this.#process)
  }
}

export function isRunning(child: ChildProcess): boolean {
  return child.pid !== undefined && child.exitCode === null && child.signalCode === null
}

/** Its exit code; null when a signal ended it, or it could not be started. */
export async function exit(child: ChildProcess): Promise<number | null> {
  if (!isRunning(child)) return setImmediate(child.exitCode) // by then, 'error' has said why
  child.ref()
  return new Promise((resolve) => {
    child.once('exit', resolve)
  })
}

/** Whether the signal ended it within the bound. SIGCONT, since a test may have frozen it. */
export async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<boolean> {
  child.kill(signal)
  child.kill('SIGCONT')
  return Promise.race([exit(child).then(() => true), sleep(ESCALATE_AFTER_MS, false, { ref: false })])
}
