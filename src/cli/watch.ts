import type { Change } from '../api/change.js'
import { schemaName } from '../postgres/options.js'
import { UsageError } from './arguments.js'
import { type Command, CONNECTION_HELP } from './command.js'
import { connectionUrl } from './database.js'
import { time } from './table.js'
import { inOneLine } from './visible.js'

const COLOURS = { joined: 32, updated: 33, left: 31 } as const

export const watchCommand: Command = {
  summary: 'changes as they come',
  help: `Usage: pg-membership watch CLUSTER [options]

Prints each change of a cluster, once and in order, as it comes: who joined, changed its data or left, and
why. It goes on through outages of the database, until Ctrl-C. With --json, one object per line; its cursor
continues from there.

  --since CURSOR     what came after it, also while nobody watched; default: from now on
${CONNECTION_HELP}`,
  options: { since: { type: 'string' } },
  maxPositionals: 1,
  connects: true,
  async run(args) {
    const [name] = args.positionals
    if (name === undefined) throw new UsageError('give the name of the cluster')
    const { print, signal, hasColours = false } = args.surroundings
    // Loaded when needed: the other commands start without it.
    const { PostgresCluster } = await import('../postgres/cluster.js')
    const options = { connection: connectionUrl(args), schema: schemaName(args.text('schema')), name }
    await using cluster = new PostgresCluster(options)
    const since = args.text('since')
    const changes = cluster.watchChanges({
      ...(since === undefined ? {} : { since }),
      ...(signal ? { signal } : {}),
    })
    for await (const change of changes)
      print(`${args.flag('json') ? JSON.stringify(change) : line(change, hasColours)}\n`)
    return ''
  },
}

function line({ at, kind, reason, member }: Change, hasColours: boolean): string {
  const what = (kind === 'left' ? `left: ${reason}` : kind).padEnd(18)
  const coloured = hasColours ? `\u001b[${String(COLOURS[kind])}m${what}\u001b[39m` : what
  return `${time(new Date(at))}  ${coloured}  ${member.id}  ${String(member.token)}  ${inOneLine(member.data)}`
}
