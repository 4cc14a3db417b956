#!/usr/bin/env node
/** npx pg-membership: finds the command, prints what it returns, turns errors into one line and an exit code. */
import { readFileSync } from 'node:fs'
import process from 'node:process'
import { OptionError } from '../api/errors.js'
import { parseArguments, UsageError } from './arguments.js'
import type { Command } from './command.js'
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
  web: webCommand,
}

const HELP = `Usage: pg-membership COMMAND [options]

${Object.entries(COMMANDS)
  .map(([name, { summary }]) => `  ${name.padEnd(9)} ${summary}`)
  .join('\n')}

Each command has its own --help. The database: --connection URL, or DATABASE_URL in the environment.
Exit codes: 0 done, 1 failed, 2 the command line is wrong.`

async function run(args: readonly string[]): Promise<string> {
  const [name = '', ...rest] = args
  if (['--help', '-h', 'help'].includes(name)) return HELP
  if (['--version', '-v'].includes(name)) return version()
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
  if (command === undefined) {
    throw new UsageError(name === '' ? 'no command was given' : `no command ${JSON.stringify(name)}`)
  }
  const parsed = parseArguments(rest, command)
  if (parsed.flag('help')) return command.help
  const text = await command.run(parsed)
  return command.isExact ? text : visible(text)
}

function version(): string {
  const manifest = readFileSync(new URL('../../package.json', import.meta.url), 'utf8')
  return (JSON.parse(manifest) as { version: string }).version
}

const FAILED = 1
const MISUSED = 2

function complaint(error: unknown): { readonly text: string; readonly exitCode: number } {
  if (error instanceof UsageError || error instanceof OptionError) {
    const [name = ''] = process.argv.slice(2)
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

// It is no failure if the program that reads our output stops early, as in `| head -1`.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') process.exitCode = FAILED
})

try {
  process.stdout.write(`${await run(process.argv.slice(2))}\n`)
} catch (error) {
  const { text, exitCode } = complaint(error)
  process.stderr.write(`pg-membership: ${inOneLine(text.replace(/\s*\n\s*/g, ' '))}\n`)
  process.exitCode = exitCode
}
