import { type Arguments, lengthMs, UsageError, uuid } from './arguments.js'
import { type Command, CONNECTION_HELP } from './command.js'
import { changing } from './database.js'

export const evictCommand: Command = {
  summary: 'remove a member, or ask it to leave, and keep it away',
  help: `Usage: pg-membership evict CLUSTER ID --note TEXT [options]

Removes a member at once, with the reason 'removed'. The log keeps the note, and your role. Its process does
not register it again until it is allowed: by time, or by pg-membership allow. A process that is started
again has new ids, and may join. Needs the owner or an operator role.

  --note TEXT        why; its process is told
  --drain            ask it to leave first: its lease ends at its next heartbeat, its row goes after that
  --stay-away TIME   how long it stays away, as 90s, 2h30m or 7d; default: until it is allowed again
${CONNECTION_HELP}`,
  options: { note: { type: 'string' }, drain: { type: 'boolean' }, 'stay-away': { type: 'string' } },
  maxPositionals: 2,
  connects: true,
  run(args) {
    const { cluster, member } = whom(args)
    const note = args.text('note')
    if (note === undefined) throw new UsageError('--note is missing: say why')
    const stayAwayMs = lengthMs(args, 'stay-away')
    const drain = args.flag('drain')
    return changing(args, async (query) => {
      const [row] = await query<{ token: string | null }>(
        `select $$.${drain ? 'drain' : 'evict'}($1, $2, $3, $4::float8 * interval '1 ms') as token`,
        [cluster, member, note, stayAwayMs ?? null],
      )
      const token = row?.token ?? null
      if (args.flag('json')) {
        return JSON.stringify({ cluster, member, token: token === null ? null : Number(token), drain })
      }
      const done = drain ? 'It is asked to leave' : 'It is removed'
      const until =
        stayAwayMs === undefined
          ? `until: pg-membership allow ${JSON.stringify(cluster)} ${member}`
          : `for ${args.text('stay-away') ?? ''}`
      return `${token === null ? 'It was not registered' : `${done} (registration ${token})`}. It stays away ${until}`
    })
  },
}

export const allowCommand: Command = {
  summary: 'let a member come back that was evicted',
  help: `Usage: pg-membership allow CLUSTER ID [options]

Takes back what evict said. Its process registers it again within a heartbeat. Needs the owner or an
operator role.

${CONNECTION_HELP}`,
  options: {},
  maxPositionals: 2,
  connects: true,
  run(args) {
    const { cluster, member } = whom(args)
    return changing(args, async (query) => {
      const [row] = await query<{ allowed: boolean }>('select $$.allow($1, $2) as allowed', [cluster, member])
      const allowed = row?.allowed === true
      if (args.flag('json')) return JSON.stringify({ cluster, member, allowed })
      return allowed ? 'It may come back.' : 'It was not evicted: nothing is changed.'
    })
  },
}

function whom(args: Arguments): { readonly cluster: string; readonly member: string } {
  const [cluster, id] = args.positionals
  if (cluster === undefined || id === undefined)
    throw new UsageError('give the cluster, and the id of the member')
  return { cluster, member: uuid('ID', id) }
}
