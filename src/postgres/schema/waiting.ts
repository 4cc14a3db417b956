/** Waiting for whoever else migrates, but not for strangers: who makes this connection wait is looked at over another. */
import pg from 'pg'
import { SchemaError } from '../../api/errors.js'
import { within } from '../../kit/waiting.js'
import { AS_WRITTEN } from '../connection/client.js'
import { begin } from '../connection/settings.js'
import { errorCode } from '../errors.js'

/** Long enough for most migrations: nobody is looked for before. */
const PATIENCE_MS = 3_000
const LOOK_TIMEOUT_MS = 5_000

interface Blocker {
  readonly pid: string
  readonly role: string
  readonly application: string
  /** It may act as this connection's role does, and so may migrate, too. */
  readonly colleague: 't' | 'f'
}

/**
 * Runs what may wait for locks. If somebody makes it wait who cannot be migrating, the wait is ended; so it is when
 * lock_timeout passes. In both cases the error says who it is, and what to do.
 */
export async function patiently<T>(
  client: pg.Client,
  config: pg.ClientConfig,
  run: () => Promise<T>,
): Promise<T> {
  const { rows } = await client.query<{ pid: string }>('select pg_catalog.pg_backend_pid() as pid')
  const pid = Number(rows[0]?.pid)
  let blockers: readonly Blocker[] = []
  let isOver = false
  const look = async (): Promise<void> => {
    await lookAt(pid, config, (found) => (blockers = found))
    if (!isOver) timer = setTimeout(() => void look(), PATIENCE_MS)
  }
  let timer = setTimeout(() => void look(), PATIENCE_MS)
  try {
    return await run()
  } catch (error) {
    const isWait = ['57014', '55P03'].includes(errorCode(error) ?? '')
    throw isWait && blockers.length > 0 ? new SchemaError(told(blockers), { cause: error }) : error
  } finally {
    isOver = true
    clearTimeout(timer)
  }
}

/** Tells who makes the backend wait, and ends the wait if one of them is a stranger. Nobody, where it cannot look. */
async function lookAt(
  pid: number,
  config: pg.ClientConfig,
  tell: (blockers: readonly Blocker[]) => void,
): Promise<void> {
  const client = new pg.Client({ ...config, types: AS_WRITTEN })
  client.on('error', () => undefined)
  const look = async (): Promise<void> => {
    await client.connect()
    await client.query(
      begin('read only', { statementTimeoutMs: LOOK_TIMEOUT_MS, lockTimeoutMs: LOOK_TIMEOUT_MS }),
    )
    const { rows } = await client.query<Blocker>(BLOCKERS, [pid])
    tell(rows)
    if (rows.some(({ colleague }) => colleague === 'f'))
      await client.query('select pg_cancel_backend($1)', [pid])
  }
  await within(LOOK_TIMEOUT_MS, look(), 'looking who holds a lock').catch(() => undefined)
  await within(LOOK_TIMEOUT_MS, client.end(), 'closing').catch(() => undefined)
}

// pg_blocking_pids() says 0 for a prepared transaction.
const BLOCKERS = `
  select b.pid, coalesce(a.usename::text, '') as role, coalesce(a.application_name, '') as application,
    coalesce(pg_has_role(a.usesysid, r.oid, 'member'), false) as colleague
  from (select distinct unnest(pg_blocking_pids($1)) as pid) b
  left join pg_stat_activity a on a.pid = b.pid join pg_roles r on r.rolname = current_user`

function told(blockers: readonly Blocker[]): string {
  const who = blockers.map(({ pid, role, application }) =>
    pid === '0'
      ? 'a prepared transaction (see pg_prepared_xacts)'
      : `role ${JSON.stringify(role)} (pid ${pid}, application ${JSON.stringify(application)})`,
  )
  const pids = blockers.map(({ pid }) => `pg_terminate_backend(${pid})`)
  return `Cannot migrate: ${who.join(' and ')} holds it up with an open transaction. End that, and migrate again: select ${pids.join(', ')}`
}
