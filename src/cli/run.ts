/** Finds the command, prints what it returns, turns errors into one line and an exit code. */
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { OptionError } from '../api/errors.js'
import { parseArguments, type Surroundings, UsageError } from './arguments.js'
import { hasColours, isDumb } from './colours.js'
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
import { uninstallCommand } from './uninstall.js'
import { inOneLine, visible } from './visible.js'
import { watchCommand } from './watch.js'
import { webCommand } from './web.js'
import { inWords } from './words.js'

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
  uninstall: uninstallCommand,
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
  const outcome: Outcome = typeof result === 'string' ? { text: result, exitCode: 0 } : result
  const isShown = command.isExact === true || outcome.isPainted === true
  return { ...outcome, text: isShown ? outcome.text : visible(outcome.text) }
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

/** Where a command reads and writes: the process's own streams, or those of a test. */
export interface Streams {
  readonly stdin?: Input
  readonly stdout: Output
  readonly stderr: Output
  readonly env: Surroundings['env']
  /** Aborts when nobody reads any more. */
  readonly signal?: AbortSignal
}

type Input = Readable & { readonly isTTY?: boolean }

interface Output {
  write(text: string): unknown
  readonly isTTY?: boolean
  readonly columns?: number
  readonly rows?: number
}

function surroundingsOf(streams: Streams): Surroundings {
  const { stdout, stderr, env, signal } = streams
  const isTerminal = stdout.isTTY === true
  return {
    env,
    get columns() {
      return isTerminal ? stdout.columns : undefined
    },
    get rows() {
      return isTerminal ? stdout.rows : undefined
    },
    isTerminal,
    canRedraw: isTerminal && !isDumb(env),
    hasColours: hasColours(env, isTerminal),
    print: (text) => void stdout.write(text),
    complain: (text) => void stderr.write(oneLine(text)),
    get ask() {
      const { stdin } = streams
      if (stdin?.isTTY !== true) return undefined
      return async (question: string) => {
        stderr.write(visible(question))
        try {
          for await (const line of createInterface({ input: stdin })) return line
          return ''
        } finally {
          // A terminal that is still open keeps the process alive. No command asks twice.
          stdin.destroy()
        }
      }
    },
    signal,
  }
}

function oneLine(text: string): string {
  return `pg-membership: ${inOneLine(text.replace(/\s*\n\s*/g, ' '))}\n`
}

/** Runs a command as the arguments say, and returns the exit code. It never fails. */
export async function runCommand(args: readonly string[], streams: Streams): Promise<number> {
  try {
    const result = await run(args, surroundingsOf(streams))
    const { text, exitCode } = typeof result === 'string' ? { text: result, exitCode: 0 } : result
    if (text !== '') streams.stdout.write(`${text}\n`)
    return exitCode
  } catch (error) {
    const { text, exitCode } = complaint(error, args[0])
    streams.stderr.write(oneLine(text))
    return exitCode
  }
}
