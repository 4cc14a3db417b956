/** The demo's handle on one process: what it was last heard to say, and what is done to it. */
import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { Member } from 'pg-membership'
import type { Command, Report } from './messages.js'

export type Fate = 'running' | 'left' | 'killed' | 'frozen'

export interface Play {
  readonly url: string
  readonly schema: string
  readonly ttlMs: number
  /** Something was reported, or a process ended. */
  readonly changed: () => void
  readonly failed: (error: Error) => void
}

export class Actor {
  readonly name: string
  fate: Fate = 'running'
  id: string | undefined
  revision = 0
  /** What it sees. */
  members: readonly Member[] | undefined
  /** How it learned that its registration was lost. */
  loss: { readonly error: string; readonly reason: string } | undefined
  readonly #child: ChildProcess

  constructor(name: string, { url, schema, ttlMs, changed, failed }: Play) {
    this.name = name
    // The address goes through the environment: arguments can be read by every user of the machine.
    this.#child = fork(fileURLToPath(new URL('member.ts', import.meta.url)), [name, schema, String(ttlMs)], {
      env: { ...process.env, DATABASE_URL: url },
    })
    this.#child.on('message', (report: Report) => {
      this.#heard(report)
      changed()
    })
    this.#child.on('error', failed)
    this.#child.on('exit', (code, signal) => {
      if (this.fate !== 'killed' && !(this.fate === 'left' && code === 0)) {
        failed(new Error(`${name} ended unexpectedly, with ${signal ?? `code ${String(code)}`}`))
      }
      changed()
    })
  }

  get hasExited(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null
  }

  sees({ id }: { readonly id: string | undefined }): Member | undefined {
    return this.members?.find((member) => member.id === id)
  }

  tell(command: Command): void {
    this.#child.send(command)
  }

  leave(): void {
    this.fate = 'left'
    this.#child.kill('SIGTERM')
  }

  kill(): void {
    this.fate = 'killed'
    this.#child.kill('SIGKILL')
  }

  freeze(): void {
    this.fate = 'frozen'
    this.#child.kill('SIGSTOP')
  }

  resume(): void {
    this.fate = 'running'
    this.#child.kill('SIGCONT')
  }

  #heard(report: Report): void {
    switch (report.kind) {
      case 'watching':
        this.id = report.id
        break
      case 'sees':
        this.members = report.members
        this.revision = report.revision
        break
      case 'lost':
        this.loss = report
        break
    }
  }
}
