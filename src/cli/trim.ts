import { lengthMs, UsageError } from './arguments.js'
import { type Command, CONNECTION_HELP } from './command.js'
import { changing } from './database.js'

export const trimCommand: Command = {
  summary: 'delete what the log says of long ago',
  help: `Usage: pg-membership trim --older-than TIME [options]

Deletes changes that are older, but not what says what a member carried at that time: each question about the
time since then is answered as before. Readers and change feeds that had not read so far are told, or read all
members again. Needs the owner. A retention does this by itself: docs/guides/operations.md.

  --older-than TIME  as 90d or 12w
${CONNECTION_HELP}`,
  options: { 'older-than': { type: 'string' } },
  maxPositionals: 0,
  connects: true,
  run(args) {
    const olderThanMs = lengthMs(args, 'older-than')
    if (olderThanMs === undefined) throw new UsageError('--older-than is missing')
    return changing(args, async (query) => {
      const [row] = await query<{ trimmed: string }>(
        `select $$.trim_events($1::float8 * interval '1 ms') as trimmed`,
        [olderThanMs],
      )
      const trimmed = Number(row?.trimmed)
      return args.flag('json') ? JSON.stringify({ trimmed }) : `Deleted ${String(trimmed)} changes.`
    })
  },
}
