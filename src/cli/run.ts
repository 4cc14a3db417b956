/** Finds the command, prints what it returns, turns errors into one line and an exit code. */
import { readFileSync } from 'node:fs'
import { OptionError } from '../api/errors.js'
import { parseArguments, type Surroundings, UsageError } from './arguments.js'
import type { Command, Outcome } from './command.js'
import { doctorCommand } from './doctor/command.js'
import { dropCommand } from './drop.js'
import { allowCommand, evictCommand } from './evict.js'
import { flappingCommand } from './flapping.js'
import { historyCommand } from './history.js'
import { membersCommand } from './members.js'
import { migrateCommand } from './migrate.js'
import { sqlCommand } from './sql.js'
import { trimCommand } from './trim.js'
import { inOneLine, visible } from './visible.js'
import { watchCommand } from './watch.js'
import { webCommand } from './web.js'

const COMMANDS: Readonly<Record<string, Command>> = {
  migrate: migrateCommand,
  sql: sqlCommand,
  members: membersCommand,
  history: historyCommand,
  watch: watchCommand,
  flapping: flappingCommand,
  doctor: doctorCommand,
  web: webCommand,
  evict: evictCommand,
  allow: allowCommand,
  trim: trimCommand,
  drop: dropCommand,
}

const HELP = `Usage: pg-membership COMMAND [options]

${Object.entries(COMMANDS)
  .map(([name, { summary }]) => `  ${name.padEnd(9)} ${summary}`)
  .join('\n')}

Each command has its own --help. The database: --connection URL, or DATABASE_URL in the environment.
Exit codes: 0 done, 1 failed, 2 the command line is wrong, 3 the doctor
found something that needs somebody now.`

async function run(args: readonly string[], surroundings: Surroundings): Promise<Outcome | string> {
  const [name = '', ...rest] = args
  if (['--help', '-h', 'help'].includes(name)) return HELP
  if (['--version', '-v'].includes(name)) return version()
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
  if (command === undefined) {
    throw new UsageError(name === '' ? 'no command was given' : `no command ${JSON.stringify(name)}`)
  }
  const parsed = parseArguments(rest, command, surroundings)
  if (parsed.flag('help')) return command.help
  const result = await command.run(parsed)
  const { text, exitCode } = typeof result === 'string' ? { text: result, exitCode: 0 } : result
  return { text: command.isExact ? text : visible(text), exitCode }
}

function version(): string {
  const manifest = readFileSync(new URL('../../package.json', import.meta.url), 'utf8')
  return (JSON.parse(manifest) as { version: string }).version
}

const FAILED = 1
const MISUSED = 2

function complaint(error: unknown, name = ''): { readonly text: string; readonly exitCode: number } {
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

/** Where a command writes: the process's own streams, or those of a test. */
export interface Streams {
  readonly stdout: Output
  readonly stderr: Output
  readonly env: Surroundings['env']
  readonly signal?: AbortSignal
}

interface Output {
  write(text: string): unknown
  readonly isTTY?: boolean
  readonly columns?: number
}

/** Runs a command as the arguments say, and returns the exit code. It never fails. */
export async function runCommand(
  args: readonly string[],
  { stdout, stderr, env, signal }: Streams,
): Promise<number> {
  const surroundings = {
    env,
    columns: stdout.isTTY ? stdout.columns : undefined,
    hasColours: stdout.isTTY === true && !env.NO_COLOR,
    print: (text: string) => void stdout.write(text),
    signal,
  }
  try {
    const result = await run(args, surroundings)
    const { text, exitCode } = typeof result === 'string' ? { text: result, exitCode: 0 } : result
    if (text !== '') stdout.write(`${text}\n`)
    return exitCode
  } catch (error) {
    const { text, exitCode } = complaint(error, args[0])
    stderr.write(`pg-membership: ${inOneLine(text.replace(/\s*\n\s*/g, ' '))}\n`)
    return exitCode
  }
}
