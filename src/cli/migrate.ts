import { schemaName } from '../postgres/options.js'
import { migrationFiles } from '../postgres/schema/files.js'
import type { Arguments } from './arguments.js'
import { type Command, CONNECTION_HELP } from './command.js'
import { connected, connectionUrl, installed } from './database.js'

export const migrateCommand: Command = {
  summary: 'create the schema, or bring it to the version of this package',
  help: `Usage: pg-membership migrate [options]

Creates the schema, or brings it to the version of this package. Safe to run at every start and from
any number of processes at once. Run it against the primary, as a role that may create the schema or
owns it.

  --dry-run          change nothing: print what would be run
${CONNECTION_HELP}`,
  options: { 'dry-run': { type: 'boolean' } },
  maxPositionals: 0,
  connects: true,
  async run(args) {
    const schema = schemaName(args.text('schema'))
    if (args.flag('dry-run')) return dryRun(args, schema)
    // Loaded when needed: it doubles the time that the other commands take to start.
    const { migrate } = await import('../postgres/schema/migrate.js')
    const migrations = await migrate({ connection: connectionUrl(args), schema })
    if (args.flag('json')) return JSON.stringify({ schema, migrations })
    if (migrations.length === 0) return `Schema ${JSON.stringify(schema)} is up to date.`
    return `Migrated schema ${JSON.stringify(schema)}: ${migrations.join(', ')}.`
  },
}

async function dryRun(args: Arguments, schema: string): Promise<string> {
  const found = await connected(args, (query) => installed(query, schema))
  const version = found?.version ?? 0
  const migrations = migrationFiles().filter((file) => file.version > version)
  const names = migrations.map(({ name }) => name)
  if (args.flag('json')) return JSON.stringify({ schema, migrations: names, dryRun: true })
  if (names.length === 0) return `Schema ${JSON.stringify(schema)} is up to date.`
  const sql = `npx pg-membership sql --from ${String(version)}`
  return `Would migrate schema ${JSON.stringify(schema)}: ${names.join(', ')}. ${sql} prints the SQL.`
}
