/**
 * npm run demo: five processes and one PostgreSQL. Each process reports what it sees, from its own cached
 * snapshot. Read member.ts for the code that they run, and story.ts for what is done to them.
 *
 * The demo needs nothing else: `npm ci` brought a PostgreSQL. With DATABASE_URL it uses that one, in a schema of
 * its own that it drops afterwards.
 */
import { openDatabase } from './database.js'
import { duration, paint, say } from './screen.js'
import { Stage } from './stage.js'
import { tell } from './story.js'

/** So short that you need not wait; the default is 15 seconds. */
const TTL_MS = 3_000

const start = performance.now()
const interruption = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => interruption.abort(new Error(`interrupted by ${signal}`)))
}
// `npm run demo | head` closes the pipe early. The demo still has to clean up.
process.stdout.on('error', (error) => interruption.abort(error))

try {
  await play(interruption.signal)
  say(`That took ${duration(performance.now() - start)}. No process, schema or directory is left behind.`)
  say()
} catch (error) {
  console.error(`\n${paint('red', '✗')} The demo did not finish: ${messageOf(error)}`)
  process.exitCode = 1
}

async function play(signal: AbortSignal): Promise<void> {
  await using database = await openDatabase()
  signal.throwIfAborted()
  const { url, schema, version, isEmbedded } = database
  say()
  say(`Five processes that have nothing in common but a database: PostgreSQL ${version},`)
  say(isEmbedded ? 'started for this demo.' : `the one of DATABASE_URL, in the schema ${schema}.`)
  say(`Who sends no heartbeat for ${String(TTL_MS / 1000)} seconds, the ttl, is removed by the others.`)
  say()
  say('Each line of a table is what one process sees, in its own cached snapshot:')
  say('  #3   a member, by the token of its registration, and its data')
  say('  ★    the first of the list, members[0]: a leader that everybody agrees on')
  say('  ·    not a member')
  await using stage = new Stage({ url, schema, ttlMs: TTL_MS, signal })
  await tell(stage, database)
}

function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  // pg throws this when no address of the host answered.
  if (error instanceof AggregateError) return (error.errors as unknown[]).map(messageOf).join('; ')
  if ('suppressed' in error && 'error' in error) {
    return `${messageOf(error.suppressed)}; then, cleaning up: ${messageOf(error.error)}`
  }
  return error.message
}
