import { execFile, type ExecFileOptions } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { run } from '../../src/cli/run.js'
import { databaseUrl } from './database.js'

export const MAIN = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

export interface Outcome {
  readonly code: number | string
  readonly stdout: string
  readonly stderr: string
}

/** What it does, without a process of its own, with DATABASE_URL set; `env` overrides, and undefined unsets. */
export async function pgMembership(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Outcome> {
  const { exitCode, stdout, stderr } = await run(args, { DATABASE_URL: databaseUrl(), ...env })
  return { code: exitCode, stdout, stderr }
}

/** The same as a user runs it. */
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
