/** For commands that go on until Ctrl-C: they look at the database once a second, and go on through its outages. */
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { MembershipError } from '../api/errors.js'
import { onAbort } from '../kit/waiting.js'
import { schemaName } from '../postgres/options.js'
import type { Query } from '../postgres/query.js'
import { Database } from '../web/database.js'
import type { Arguments } from './arguments.js'
import { connectionUrl } from './database.js'
import { inWords } from './words.js'

const LOOK_MS = 1_000

export interface Following {
  /** Looks once, in a transaction that only reads. May be called again after a failure. */
  readonly look: (query: Query) => Promise<void>
  /** The database cannot be reached any more, and why; undefined: it is reached again. Default: told on stderr. */
  readonly onTrouble?: (trouble: string | undefined) => void
}

/**
 * Ends normally at Ctrl-C, at SIGTERM, and when nobody reads any more. Rejects if the database does not answer at
 * first, or when no later look can succeed.
 */
export async function follow(args: Arguments, { look, onTrouble = tell(args) }: Following): Promise<void> {
  const ended = new AbortController()
  const end = (): void => ended.abort()
  const stopListening = onAbort(args.surroundings.signal, end)
  process.once('SIGINT', end).once('SIGTERM', end)
  const database = new Database({
    connection: connectionUrl(args),
    schema: schemaName(args.text('schema')),
    applicationName: 'pg-membership cli',
  })
  const isOver = new Promise<void>((resolve) => onAbort(ended.signal, resolve))
  const reached = { once: false }
  let trouble: string | undefined
  // From the first answer on, it goes on: a look may have printed something before it failed.
  const lookOnce = (query: Query): Promise<void> =>
    look(async <T extends object>(text: string, values: readonly unknown[]) => {
      const rows = await query<T>(text, values)
      reached.once = true
      return rows
    })
  try {
    while (!ended.signal.aborted) {
      try {
        await Promise.race([database.ask(lookOnce), isOver])
        if (trouble !== undefined) onTrouble(undefined)
        trouble = undefined
      } catch (error) {
        if (!reached.once || error instanceof MembershipError) throw error
        if (trouble === undefined) onTrouble(inWords(error))
        trouble = inWords(error)
      }
      await sleep(LOOK_MS, undefined, { signal: ended.signal }).catch(() => undefined)
    }
  } finally {
    process.off('SIGINT', end).off('SIGTERM', end)
    stopListening()
    database.close()
  }
}

function tell({ surroundings: { complain } }: Arguments): (trouble: string | undefined) => void {
  return (trouble) =>
    complain(trouble === undefined ? 'the database is reached again' : `${trouble}: trying again`)
}
