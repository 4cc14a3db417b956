import { schemaName } from '../postgres/options.js'
import { type Command, CONNECTION_HELP } from './command.js'
import { connectionUrl } from './database.js'

export const migrateCommand: Command = {
  summary: 'create the schema, or bring it to the version of this package',
  help: `Usage: pg-membership migrate [options]

Creates the schema, or brings it to the version of this package. Safe to run at every start and from
any number of processes at once. Run it against the primary, as a role that may create the schema or
owns it.

${CONNECTION_HELP}`,
  options: {},
  maxPositionals: 0,
  connects: true,
  async run(args) {
    const schema = schemaName(args.text('schema'))
    // Loaded when needed: it doubles the time that the other commands take to start.
    const { migrate } = await import('../postgres/schema/migrate.js')
    const migrations = await migrate({ connection: connectionUrl(args), schema })
    if (args.flag('json')) return JSON.stringify({ schema, migrations })
    if (migrations.length === 0) return `Schema ${JSON.stringify(schema)} is up to date.`
    return `Migrated schema ${JSON.stringify(schema)}: ${migrations.join(', ')}.`
  },
}
