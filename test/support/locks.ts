/** Who waits for a lock. Tests share a server, where others may wait at any moment: each looks for its own backend. */
import type { AdminClient } from './database.js'
import { until } from './until.js'

/** Of the connection's backend. */
export async function pidOf(client: AdminClient): Promise<number> {
  return (await client.query<{ pid: number }>('select pg_backend_pid() as pid')).rows[0]?.pid ?? 0
}

/** Resolves when this backend waits for a lock. */
export async function whenBlocked(admin: AdminClient, pid: number): Promise<void> {
  // Every role may ask this. What pg_stat_activity shows depends on the role.
  const query = 'select where cardinality(pg_blocking_pids($1)) > 0'
  await until(async () => (await admin.query(query, [pid])).rowCount, {
    message: `backend ${pid} waits for a lock`,
  })
}

/** Whether a process's call of the schema's function waits for a lock. */
export async function isCallBlocked(admin: AdminClient, schema: string, name: string): Promise<boolean> {
  const { rowCount } = await admin.query(
    `select from pg_stat_activity
     where wait_event_type = 'Lock' and position($1 in query) > 0 and pid <> pg_backend_pid()`,
    [`"${schema}"."${name}"(`],
  )
  return rowCount !== 0
}

/** Resolves when a process's call of the schema's function waits for a lock. */
export async function whenCallBlocked(admin: AdminClient, schema: string, name: string): Promise<void> {
  await until(() => isCallBlocked(admin, schema, name), { message: `a call of ${name} waits for a lock` })
}

export interface SlowCascade {
  /** A table that references members. A deletion that cascades into a row of it goes on when `release` was called. */
  readonly table: string
  readonly release: () => Promise<void>
}

/** What an application attaches to members, and what takes long to delete: it waits for a lock, as it would for a disk. */
export async function slowCascade(
  admin: AdminClient,
  holder: AdminClient,
  schema: string,
): Promise<SlowCascade> {
  const lock = 4_711_000 + Math.floor(Math.random() * 1_000_000)
  const table = `${schema}.slow_${String(lock)}`
  await admin.query(`
    create table ${table} (member uuid references ${schema}.members on delete cascade);
    create function ${table}() returns trigger language plpgsql set lock_timeout = 0 as $$
      begin perform pg_advisory_xact_lock(${String(lock)}); return old; end $$;
    create trigger slow before delete on ${table} for each row execute function ${table}()`)
  await holder.query('select pg_advisory_lock($1)', [lock])
  const release = async (): Promise<void> => {
    await holder.query('select pg_advisory_unlock($1)', [lock])
  }
  return { table, release }
}
