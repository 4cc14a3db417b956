import { quoteIdentifier } from '../postgres/identifier.js'
import { schemaName } from '../postgres/options.js'
import { grantsText } from '../postgres/schema/files.js'
import { migrationSql } from '../postgres/schema/print.js'
import { type Arguments, UsageError } from './arguments.js'
import type { Command } from './command.js'

export const sqlCommand: Command = {
  isExact: true,
  summary: 'print the migrations, or the grants that roles need, as SQL',
  help: `Usage: pg-membership sql [--down] [--from N] [--to N] [--schema NAME]
       pg-membership sql --grants KIND=ROLE,... [--schema NAME]

Prints the migrations as SQL, for teams with a migration tool of their own, or the grants that roles
need. It connects to nothing. Run what it prints in one transaction.

  --down             remove the schema instead
  --from N           the version that is there; default: 0, with --down the newest
  --to N             the version wanted; default: the newest, with --down 0
  --grants LIST      print grants instead, as KIND=ROLE,...: owner, member, operator or reader; see docs/roles.md
  --schema NAME      default: pgmembership
  -h, --help         this text`,
  options: {
    down: { type: 'boolean' },
    from: { type: 'string' },
    to: { type: 'string' },
    grants: { type: 'string', multiple: true },
  },
  maxPositionals: 0,
  connects: false,
  run(args) {
    const schema = schemaName(args.text('schema'))
    const [from, to] = [args.integer('from'), args.integer('to')]
    const wanted = grants(args)
    if (wanted.length > 0) {
      if (args.flag('down') || from !== undefined || to !== undefined) {
        throw new UsageError('--grants cannot be used with --down, --from or --to')
      }
      return wanted.map(({ kind, role }) => grant(kind, schema, role)).join('\n')
    }
    return migrationSql({
      schema,
      direction: args.flag('down') ? 'down' : 'up',
      ...(from === undefined ? {} : { from }),
      ...(to === undefined ? {} : { to }),
    }).trimEnd()
  },
}

type Kind = 'owner' | 'member' | 'operator' | 'reader'

function grants(args: Arguments): { readonly kind: Kind; readonly role: string }[] {
  const items = args.texts('grants').flatMap((list) => list.split(','))
  return items.map((item) => {
    const [, kind, role] = /^(owner|member|operator|reader)=(.+)$/s.exec(item) ?? []
    if (role === undefined) {
      throw new UsageError(
        `--grants takes owner=ROLE, member=ROLE, operator=ROLE or reader=ROLE, not ${JSON.stringify(item)}`,
      )
    }
    return { kind: kind as Kind, role }
  })
}

function grant(kind: Kind, schema: string, role: string): string {
  const reader = grantsText('reader', schema, role)
  switch (kind) {
    case 'owner':
      // Not \`if not exists\`: the schema of somebody else must not be taken for that of the owner.
      return `-- An owner migrates, and trims the log. It needs no privilege but a schema of its own. If this says that the schema
-- exists already, see first whose it is: select nspname, nspowner::regrole from pg_namespace;
create schema ${quoteIdentifier(schema)} authorization ${quoteIdentifier(role)};\n`
    case 'member':
    case 'operator':
      return `${reader}\n${grantsText(kind, schema, role)}`
    case 'reader':
      return reader
  }
}
