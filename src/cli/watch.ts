import { positionAt } from '../engine/cursor.js'
import { type Arguments, UsageError } from './arguments.js'
import { type Change, Changes } from './changes.js'
import { type Colour, paint } from './colours.js'
import { type Command, CONNECTION_HELP } from './command.js'
import { noSuchCluster } from './database.js'
import { doneBy } from './done-by.js'
import { follow } from './follow.js'
import { time } from './table.js'
import { inOneLine, visible } from './visible.js'

const COLOURS: Readonly<Record<Change['kind'], Colour>> = { joined: 'green', updated: 'yellow', left: 'red' }

export const watchCommand: Command = {
  summary: 'changes as they come',
  help: `Usage: pg-membership watch [CLUSTER] [options]

Prints each change of a cluster, or of all, also of those that are new, once and in order, within a second: who
joined, changed its data or left, and why. It goes on through outages of the database, until Ctrl-C. It only
reads. For people on a terminal; elsewhere, and with --json, one JSON object per line.

Colours: as NO_COLOR, FORCE_COLOR and TERM=dumb say. FORCE_COLOR also brings the text for people into a pipe.

  --since CURSOR     what came after it, also while nobody watched; needs CLUSTER; default: from now on.
                     Each object has the cursor that goes on after it
${CONNECTION_HELP}`,
  options: { since: { type: 'string' } },
  maxPositionals: 1,
  connects: true,
  async run(args) {
    const [cluster] = args.positionals
    const since = args.text('since')
    if (since !== undefined && cluster === undefined) {
      throw new UsageError('--since is the cursor of one cluster: give its name')
    }
    const { print, complain, isTerminal, hasColours } = args.surroundings
    const isJson = args.flag('json') || !(isTerminal || hasColours)
    const changes = new Changes(cluster, since === undefined ? undefined : positionAt(since))
    let hasBegun = false
    await follow(args, {
      look: async (query) => {
        const names = await changes.look(query, (change) =>
          print(isJson ? visible(`${JSON.stringify(change)}\n`) : `${line(change, args)}\n`),
        )
        if (hasBegun) return
        hasBegun = true
        const many = cluster === undefined ? `all clusters (${names.length} now)` : JSON.stringify(cluster)
        const unknown = cluster === undefined ? '' : await noSuchCluster(query, cluster)
        if (unknown !== '') complain(`${unknown}. It is watched from its first change`)
        else if (!isJson) complain(`watching ${many} from now on, Ctrl-C to end`)
      },
    })
    return ''
  },
}

function line({ cluster, at, kind, reason, member, ...by }: Change, args: Arguments): string {
  const what = paint(
    (kind === 'left' ? `left: ${reason}` : kind).padEnd(18),
    COLOURS[kind],
    args.surroundings,
  )
  const who = doneBy({ reason, by_role: by.byRole, note: by.note })
  const cells = [
    time(new Date(at)),
    ...(args.positionals.length === 0 ? [inOneLine(cluster)] : []),
    what,
    member.id,
    String(member.token),
    ...(who === '' ? [] : [`by ${inOneLine(who)}`]),
    inOneLine(member.data),
  ]
  return cells.join('  ').trimEnd()
}
