import { errorCode } from '../postgres/errors.js'
import { quoteIdentifier } from '../postgres/identifier.js'
import { schemaName } from '../postgres/options.js'
import type { Query } from '../postgres/query.js'
import { migrationFiles, migrationText } from '../postgres/schema/files.js'
import { LOCK_TABLE, RECORD_TABLE } from '../postgres/schema/print.js'
import { SCHEMA_VERSION } from '../postgres/schema/version.js'
import { type Arguments, UsageError } from './arguments.js'
import { type Command, CONNECTION_HELP } from './command.js'
import { changing, connected, installed } from './database.js'
import { inOneLine } from './visible.js'

export const uninstallCommand: Command = {
  summary: 'remove everything that migrate made, the log included',
  help: `Usage: pg-membership uninstall [options]

Removes the tables, functions and views of pg-membership, with all members and the whole log, and the schema
itself if nothing else is in it. It says what will be lost, and asks for the name of the schema. It is refused
while members are alive, and while objects of yours depend on it, as a foreign key to members does. Stop the
processes first: they cannot go on without the schema. Needs the owner.

  --yes              do not ask: for scripts
  --force            also while members are alive
${CONNECTION_HELP}`,
  options: { yes: { type: 'boolean' }, force: { type: 'boolean' } },
  maxPositionals: 0,
  connects: true,
  async run(args) {
    const schema = schemaName(args.text('schema'))
    const { ask } = args.surroundings
    if (!args.flag('yes') && ask === undefined) {
      throw new UsageError('nobody is there to confirm: give --yes')
    }
    // The transaction ends before somebody is asked: nobody waits for a person.
    const found = await connected(args, (query) => lookedAt(query, args, schema))
    const loss = `${String(found.alive)} members alive, ${String(found.clusters)} clusters, ${String(found.events)} changes of the log and ${String(found.nonces)} nonces`
    if (!args.flag('yes') && ask !== undefined) {
      const question = `This removes schema ${JSON.stringify(schema)} for good: ${loss}.\nType its name to confirm: `
      if ((await ask(question)) !== schema) throw new Error('that is not its name: nothing is removed')
    }
    const schemaIsGone = await changing(args, async (query) => {
      await lookedAt(query, args, schema, 'lock')
      await remove(query, schema, found.version)
      return dropSchema(query, schema)
    })
    if (args.flag('json')) return JSON.stringify({ schema, ...found, schemaIsGone })
    const rest = schemaIsGone ? '' : ' The schema itself stays: it has other objects, or you do not own it.'
    return `Removed schema ${JSON.stringify(schema)}: ${loss}.${rest}`
  },
}

interface Found {
  readonly version: number
  readonly alive: number
  readonly clusters: number
  readonly events: number
  /** The used ones, too: without them a value can be used again. */
  readonly nonces: number
}

/** What is there. Throws if it must not be removed. */
async function lookedAt(query: Query, args: Arguments, schema: string, lock?: 'lock'): Promise<Found> {
  const version = (await installed(query, schema))?.version
  if (version === undefined) throw new Error(`there is no pg-membership in schema ${JSON.stringify(schema)}`)
  if (version > SCHEMA_VERSION) {
    throw new Error(
      `the schema has version ${String(version)}, which this pg-membership does not know: use a newer one`,
    )
  }
  if (lock) {
    await query(`set local lock_timeout = '10s'`, [])
    await query('lock table $$.members, $$.clusters, $$.events in access exclusive mode', [])
  }
  const [counted] = await query<Found>(
    `select (select count(*) from $$.members where $$.heard_at(id, token, heartbeat_at) + ttl > clock_timestamp())::int as alive,
      (select count(*) from $$.clusters)::int as clusters, (select count(*) from $$.events)::float8 as events,
      (select count(*) from $$.nonces)::float8 as nonces`,
    [],
  )
  const { alive = 0, clusters = 0, events = 0, nonces = 0 } = counted ?? {}
  if (alive > 0 && !args.flag('force')) {
    throw new Error(
      `${String(alive)} members are alive in schema ${JSON.stringify(schema)}: stop their processes first, or give --force`,
    )
  }
  return { version, alive, clusters, events, nonces }
}

async function remove(query: Query, schema: string, version: number): Promise<void> {
  const files = migrationFiles().filter((file) => file.version <= version)
  try {
    for (const file of files.reverse()) await query(migrationText(file, 'down', schema), [])
    // There is no record where psql ran the migrations.
    for (const name of [RECORD_TABLE, LOCK_TABLE]) await query(`drop table if exists $$.${name}`, [])
  } catch (error) {
    if (errorCode(error) !== '2BP01') throw error
    const { message, detail } = error as Error & { readonly detail?: string }
    throw new Error(`${message}: ${inOneLine(detail ?? '')}. Drop what is yours first: nothing is removed`, {
      cause: error,
    })
  }
}

/** Whether it is gone: it stays where others have something in it, or own it, and where every database has it. */
async function dropSchema(query: Query, schema: string): Promise<boolean> {
  if (schema === 'public') return false
  await query('savepoint schema', [])
  try {
    await query(`drop schema ${quoteIdentifier(schema)}`, [])
    return true
  } catch (error) {
    // Other objects are in it; somebody else owns it.
    if (!['2BP01', '42501'].includes(errorCode(error) ?? '')) throw error
    await query('rollback to savepoint schema', [])
    return false
  }
}
