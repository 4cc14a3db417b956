import { execFile, type ExecFileOptions } from 'node:child_process'
import { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'
import { runCommand } from '../../src/cli/run.js'
import { databaseUrl } from './database.js'

export const MAIN = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

export interface Outcome {
  readonly code: number | string
  readonly stdout: string
  readonly stderr: string
}

/** For a command that goes on, and one that somebody sits in front of. */
export interface Following {
  readonly signal?: AbortSignal
  /** Its output goes to a terminal of this size. */
  readonly terminal?: { readonly columns: number; readonly rows: number }
  /** What the person types who is asked. */
  readonly typed?: string
  /** What it has written so far. */
  readonly written?: { stdout: string; stderr: string }
}

/** As a user runs it, with DATABASE_URL set; `env` overrides, and undefined unsets. In this process, to be quick. */
export async function pgMembership(
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
  { signal, terminal, typed, written = { stdout: '', stderr: '' } }: Following = {},
): Promise<Outcome & { readonly code: number }> {
  const output = (name: 'stdout' | 'stderr') => ({
    write: (text: string) => (written[name] += text),
    ...(terminal ? { isTTY: true, ...terminal } : {}),
  })
  const stdin = Object.assign(Readable.from([`${typed ?? ''}\n`]), { isTTY: typed !== undefined })
  const code = await runCommand(args, {
    stdin,
    stdout: output('stdout'),
    stderr: output('stderr'),
    // As where nobody has asked for colours, nor against them; the terminal knows all.
    env: {
      ...process.env,
      ...{ NO_COLOR: undefined, FORCE_COLOR: undefined, TERM: 'xterm' },
      DATABASE_URL: databaseUrl(),
      ...env,
    },
    ...(signal ? { signal } : {}),
  })
  return { code, ...written }
}

/** A command that goes on, until `end`, or the end of the test. */
export function follow(args: readonly string[], env: NodeJS.ProcessEnv = {}, more: Following = {}) {
  const [ending, written] = [new AbortController(), { stdout: '', stderr: '' }]
  const ended = pgMembership(args, env, { ...more, signal: ending.signal, written })
  onTestFinished(async () => {
    ending.abort()
    await ended
  })
  return {
    written,
    lines: () => written.stdout.split('\n').filter((line) => line !== ''),
    end: () => (ending.abort(), ended),
  }
}

/** The same in a process of its own: what the shell sees. */
export function pgMembershipProcess(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Outcome> {
  const options: ExecFileOptions = {
    env: { ...process.env, DATABASE_URL: databaseUrl(), ...env },
    encoding: 'utf8',
  }
  return new Promise((resolve) => {
    execFile(process.execPath, [MAIN, ...args], options, (error, stdout, stderr) => {
      resolve({ code: error ? (error.code ?? 'killed') : 0, stdout: String(stdout), stderr: String(stderr) })
    })
  })
}
