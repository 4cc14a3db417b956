import { execFile, type ExecFileOptions } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { runCommand } from '../../src/cli/run.js'
import { databaseUrl } from './database.js'

export const MAIN = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

export interface Outcome {
  readonly code: number | string
  readonly stdout: string
  readonly stderr: string
}

/** For a command that goes on. */
export interface Following {
  readonly signal?: AbortSignal
  /** What it has written so far. */
  readonly written?: { stdout: string; stderr: string }
}

/** As a user runs it, with DATABASE_URL set; `env` overrides, and undefined unsets. In this process, to be quick. */
export async function pgMembership(
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
  { signal, written = { stdout: '', stderr: '' } }: Following = {},
): Promise<Outcome & { readonly code: number }> {
  const output = (name: 'stdout' | 'stderr') => ({ write: (text: string) => (written[name] += text) })
  const code = await runCommand(args, {
    stdout: output('stdout'),
    stderr: output('stderr'),
    env: { ...process.env, DATABASE_URL: databaseUrl(), ...env },
    ...(signal ? { signal } : {}),
  })
  return { code, ...written }
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
