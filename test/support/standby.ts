/**
 * A streaming replica of a server, which can be promoted: a failover that really happens, with a timeline
 * of its own. npm brings no pg_basebackup, so the base backup is taken by hand, as the manual describes it.
 */
import { copyFile, mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type AdminClient, adminClient } from './database.js'
import { type PostgresServer, startPostgres } from './postgres-server.js'
import { until } from './until.js'

export interface Standby extends PostgresServer {
  /** Resolves once all that is committed on the primary now can be seen here. */
  caughtUp(): Promise<void>
  /** Receives nothing more: what the primary commits from now on is lost when this one is promoted. */
  disconnectFromPrimary(): Promise<void>
  /** Resolves once it takes writes. */
  promote(): Promise<void>
}

/** Streams from `primary`, which stays free to take writes meanwhile. */
export async function startStandby(primary: PostgresServer): Promise<Standby> {
  const server = await startPostgres({ fsync: false, fill: (directory) => copyOf(primary, directory) })
  return Object.assign(server, {
    caughtUp: () => caughtUp(primary, server),
    disconnectFromPrimary: () => disconnect(server),
    promote: () => promote(server),
  })
}

/** Made anew by every server, or told about by none of its files. */
const NOT_COPIED = /^(pg_wal\/.+|pg_replslot\/.+|pg_dynshmem\/.+|pg_notify\/.+|postmaster\.(pid|opts))$/

async function copyOf(primary: PostgresServer, directory: string): Promise<void> {
  await using admin = await adminClient(primary.url)
  const { rows: versions } = await admin.query<{ before15: boolean }>(
    `select current_setting('server_version_num')::integer < 150000 as before15`,
  )
  const [start, stop] =
    versions[0]?.before15 === true
      ? [`pg_start_backup('standby', true, false)`, 'pg_stop_backup(false, false)']
      : [`pg_backup_start('standby', true)`, 'pg_backup_stop(false)']
  await admin.query(`select ${start}`)
  await copyFiles(primary.dataDirectory, directory)
  const { rows } = await admin.query<{ labelfile: string }>(`select labelfile from ${stop}`)
  const settings = `primary_conninfo = 'host=127.0.0.1 port=${primary.port} user=postgres'\n`
  await writeFile(join(directory, 'backup_label'), rows[0]?.labelfile ?? '')
  await writeFile(join(directory, 'postgresql.auto.conf'), settings)
  await writeFile(join(directory, 'standby.signal'), '')
}

async function copyFiles(from: string, to: string, inside = ''): Promise<void> {
  for (const entry of await readdir(join(from, inside), { withFileTypes: true })) {
    const path = inside === '' ? entry.name : `${inside}/${entry.name}`
    if (NOT_COPIED.test(path)) continue
    if (entry.isDirectory()) {
      await mkdir(join(to, path), { mode: 0o700 })
      await copyFiles(from, to, path)
    } else {
      await copyFile(join(from, path), join(to, path)).catch(vanished)
    }
  }
}

/** The primary is at work: files go, and its log says what became of them. */
function vanished(error: NodeJS.ErrnoException): void {
  if (error.code !== 'ENOENT') throw error
}

async function caughtUp(primary: PostgresServer, standby: PostgresServer): Promise<void> {
  await using source = await adminClient(primary.url)
  await using copy = await adminClient(standby.url)
  // Its commit waits for the disk, and takes with it what had not waited.
  await source.query(`select pg_logical_emit_message(true, '', '')`)
  const { rows } = await source.query<{ lsn: string }>('select pg_current_wal_flush_lsn() as lsn')
  await isTrue(copy, `pg_last_wal_replay_lsn() >= '${rows[0]?.lsn ?? ''}'`, 'the standby catches up')
}

async function disconnect(standby: PostgresServer): Promise<void> {
  await using admin = await adminClient(standby.url)
  await admin.query(`alter system set primary_conninfo = ''`)
  await admin.query('select pg_reload_conf()')
  await isTrue(admin, 'not exists (select from pg_stat_wal_receiver)', 'the standby lets go')
}

async function promote(standby: PostgresServer): Promise<void> {
  await using admin = await adminClient(standby.url)
  await admin.query('select pg_promote(false)')
  await isTrue(admin, 'not pg_is_in_recovery()', 'the standby is promoted')
}

async function isTrue(admin: AdminClient, condition: string, message: string): Promise<void> {
  const holds = async (): Promise<boolean> =>
    (await admin.query<{ holds: boolean }>(`select ${condition} as holds`)).rows[0]?.holds === true
  await until(holds, { withinMs: 20_000, message })
}
