/** The command line as a function: finds the command, and turns errors into one line and an exit code. */
import { readFileSync } from 'node:fs'
import { OptionError } from '../api/errors.js'
import { parseArguments, UsageError } from './arguments.js'
import type { Command, Report } from './command.js'
import { doctorCommand } from './doctor.js'
import { historyCommand } from './history.js'
import { membersCommand } from './members.js'
import { migrateCommand } from './migrate.js'
import { sqlCommand } from './sql.js'
import { inOneLine, visible } from './visible.js'
import { webCommand } from './web.js'

const COMMANDS: Readonly<Record<string, Command>> = {
  migrate: migrateCommand,
  sql: sqlCommand,
  members: membersCommand,
  history: historyCommand,
  doctor: doctorCommand,
  web: webCommand,
}

const HELP = `Usage: pg-membership COMMAND [options]

${Object.entries(COMMANDS)
  .map(([name, { summary }]) => `  ${name.padEnd(9)} ${summary}`)
  .join('\n')}

Each command has its own --help. The database: --connection URL, or DATABASE_URL in the environment.
Exit codes: 0 done, 1 failed, 2 the command line is wrong, 3 the doctor has an alert.`

export interface Outcome {
  readonly exitCode: number
  readonly stdout: string
  readonly stderr: string
}

/** The environment may have DATABASE_URL. */
export async function run(args: readonly string[], environment: NodeJS.ProcessEnv): Promise<Outcome> {
  try {
    const { text, exitCode } = await report(args, environment)
    return { exitCode, stdout: `${text}\n`, stderr: '' }
  } catch (error) {
    const { text, exitCode } = complaint(error, args)
    return {
      exitCode,
      stdout: '',
      stderr: `pg-membership: ${inOneLine(text.replace(/\s*\n\s*/g, ' '))}\n`,
    }
  }
}

async function report(args: readonly string[], environment: NodeJS.ProcessEnv): Promise<Report> {
  const [name = '', ...rest] = args
  if (['--help', '-h', 'help'].includes(name)) return done(HELP)
  if (['--version', '-v'].includes(name)) return done(version())
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
  if (command === undefined) {
    throw new UsageError(name === '' ? 'no command was given' : `no command ${JSON.stringify(name)}`)
  }
  const parsed = parseArguments(rest, command, environment)
  if (parsed.flag('help')) return done(command.help)
  const result = await command.run(parsed)
  const { text, exitCode } = typeof result === 'string' ? done(result) : result
  return { text: command.isExact ? text : visible(text), exitCode }
}

function done(text: string): Report {
  return { text, exitCode: 0 }
}

function version(): string {
  const manifest = readFileSync(new URL('../../package.json', import.meta.url), 'utf8')
  return (JSON.parse(manifest) as { version: string }).version
}

const FAILED = 1
const MISUSED = 2

function complaint(
  error: unknown,
  [name = '']: readonly string[],
): { readonly text: string; readonly exitCode: number } {
  if (error instanceof UsageError || error instanceof OptionError) {
    const help = `pg-membership ${Object.hasOwn(COMMANDS, name) ? `${name} ` : ''}--help`
    return { text: `${error.message} (see ${help})`, exitCode: MISUSED }
  }
  return { text: inWords(error), exitCode: FAILED }
}

function inWords(error: unknown): string {
  // If several addresses of a host failed, the messages are in the parts.
  const { message, code } = (error instanceof AggregateError ? error.errors[0] : error) as Error & {
    code?: unknown
  }
  const unreachable = /^(ECONN|EHOST|ENET|ETIMEDOUT|EAI_|ENOENT|EPIPE|57P0|08)/.test(String(code))
  if (unreachable || message.startsWith('connecting took')) {
    return `cannot reach the database: ${message} (is it running there? check --connection or DATABASE_URL)`
  }
  return message
}
