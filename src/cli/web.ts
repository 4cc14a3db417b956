import { once } from 'node:events'
import { isIPv4 } from 'node:net'
import process from 'node:process'
import { errorCode } from '../postgres/errors.js'
import { schemaName } from '../postgres/options.js'
import type { Diagnose } from '../web/answering.js'
import { UsageError } from './arguments.js'
import { type Command, CONNECTION_HELP } from './command.js'
import { connectionUrl } from './database.js'
import { diagnose } from './doctor/diagnose.js'

const DEFAULT_HOST = '127.0.0.1'
const DEFAULT_PORT = 7788
const MAX_PORT = 65_535

export const webCommand: Command = {
  summary: 'serve a page for browsers: members, their timeline, changes',
  help: `Usage: pg-membership web [options]

Serves a page that shows who is a member now, or was at any time, and what changed and why. It only
reads: a reader role is enough. It ends with Ctrl-C.

Whoever can reach the page sees all of it, without a password. So it is served on this machine only,
unless --host says otherwise.

  --port N           default: ${String(DEFAULT_PORT)}; 0: any that is free
  --host HOST        the address to listen at; default: ${DEFAULT_HOST}
${CONNECTION_HELP.replace(/\n *--json.*/, '')}`,
  options: { port: { type: 'string' }, host: { type: 'string' } },
  maxPositionals: 0,
  connects: true,
  async run(args) {
    const host = args.text('host') ?? DEFAULT_HOST
    const port = args.integer('port') ?? DEFAULT_PORT
    if (port > MAX_PORT) throw new UsageError(`--port must be at most ${String(MAX_PORT)}`)
    if (args.flag('json')) throw new UsageError('web has no --json')
    const [connection, schema] = [connectionUrl(args), schemaName(args.text('schema'))]
    // Loaded when needed: the other commands start without it.
    const { servePage } = await import('../web/server.js')
    const stopped = Promise.race([once(process, 'SIGINT'), once(process, 'SIGTERM')])
    const diagnosed: Diagnose = (query) => diagnose({ query, schema, hearing: undefined })
    const page = await servePage({ connection, schema, host, port, diagnose: diagnosed }).catch(
      (error: unknown) => {
        if (errorCode(error) !== 'EADDRINUSE') throw error
        throw new Error(`port ${String(port)} is taken: give another as --port, or 0 for any that is free`)
      },
    )
    if (!isLoopback(host)) {
      process.stderr.write(
        `pg-membership: whoever can reach ${host} can see this page: it asks for no password\n`,
      )
    }
    process.stdout.write(`${page.url}\n`)
    await stopped
    page.close()
    return 'Stopped.'
  },
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIPv4(host) && host.startsWith('127.'))
}
