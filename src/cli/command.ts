/** What a command is. */
import type { Arguments, Syntax } from './arguments.js'

export interface Command extends Syntax {
  /** What it prints is for programs to take as it is, and holds nothing that members have written. */
  readonly isExact?: true
  readonly summary: string
  /** Printed by --help. */
  readonly help: string
  /** Returns what is to be printed. */
  run(args: Arguments): Promise<string> | string
}

export const CONNECTION_HELP = `  --connection URL   PostgreSQL, as postgres://user@host:5432/database; default: $DATABASE_URL
  --schema NAME      default: pgmembership
  --json             for programs
  -h, --help         this text`
