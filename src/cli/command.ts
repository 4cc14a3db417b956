/** What a command is. */
import type { Arguments, Syntax } from './arguments.js'

export interface Outcome {
  readonly text: string
  readonly exitCode: number
  /** It has colours, and what members have written is escaped already. */
  readonly isPainted?: true
}

export interface Command extends Syntax {
  /** Its output is for programs, so it is printed unchanged. It has nothing in it that members have written. */
  readonly isExact?: true
  readonly summary: string
  /** Printed by --help. */
  readonly help: string
  /** Returns what is to be printed, and the exit code if it is not 0. */
  run(args: Arguments): Promise<Outcome | string> | string
}

export const CONNECTION_HELP = `  --connection URL   PostgreSQL, as postgres://user@host:5432/database; default: $DATABASE_URL
  --schema NAME      default: pgmembership
  --json             for programs
  -h, --help         this text`
