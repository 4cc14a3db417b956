/**
 * The first statement on a connection. It refuses a standby, finds out whether there is a pooler, and tells the server
 * and its time. Without a pooler it also changes settings, which a pooler would leak to others. All its names have their
 * schema: it runs with the path of the role.
 */
import type pg from 'pg'
import { monotonicMs, ServerClock } from '../../kit/clock.js'
import { OWN_NAMES } from './settings.js'

export interface Greeted {
  /** There is no pooler in between: the backend serves this connection only. */
  readonly direct: boolean
  /** Differs for every start of every server. */
  readonly server: string
  readonly clock: ServerClock
}

export async function greet(client: pg.Client, session: string, boundMs: number): Promise<Greeted> {
  const { processID } = client as unknown as { processID: number | null }
  const { rows } = await client.query<Greeting>({
    text: GREETING,
    values: [processID ?? 0, session],
    query_timeout: boundMs,
  } as pg.QueryConfig)
  if (rows[0]?.standby !== 'f') {
    throw Object.assign(new Error('The server is a standby: it cannot take heartbeats'), { code: '25006' })
  }
  const clock = new ServerClock()
  clock.hear(Number(rows[0].server_ms), monotonicMs())
  return { direct: rows[0].direct === 't', server: rows[0].server, clock }
}

interface Greeting {
  readonly standby: 't' | 'f'
  readonly direct: 't' | 'f'
  readonly server: string
  readonly server_ms: string
}

const GREETING = `
  select pg_catalog.pg_is_in_recovery() as standby, direct,
    extract(epoch from pg_catalog.pg_postmaster_start_time()) as server,
    extract(epoch from pg_catalog.clock_timestamp()) operator(pg_catalog.*) 1000 as server_ms,
    case when direct then array[
      pg_catalog.set_config('search_path', '${OWN_NAMES}', false),
      pg_catalog.set_config('default_transaction_isolation', 'read committed', false),
      pg_catalog.set_config('default_transaction_read_only', 'off', false),
      pg_catalog.set_config('statement_timeout', '0', false),
      pg_catalog.set_config('idle_session_timeout', '0', false),
      pg_catalog.set_config('row_security', 'on', false),
      pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', false),
      pg_catalog.set_config('tcp_keepalives_idle', '10', false),
      pg_catalog.set_config('tcp_keepalives_interval', '5', false),
      pg_catalog.set_config('tcp_keepalives_count', '3', false),
      case when pg_catalog.version() operator(pg_catalog.~~) '%linux%' then
        pg_catalog.set_config('client_connection_check_interval', '1s', false)
      end
    ] end
  from (
    select pg_catalog.pg_backend_pid() operator(pg_catalog.=) $1::integer
      and pg_catalog.current_setting('application_name') operator(pg_catalog.=) $2 as direct
  ) backend`
