/** A primary and its standby, and processes that live through a failover from the one to the other. */
import type { PostgresClusterOptions } from 'pg-membership'
import { migrate } from 'pg-membership'
import { expect, onTestFinished } from 'vitest'
import type { AdminClient } from './database.js'
import { tableOf } from './event-log.js'
import { type PostgresServer, startPostgres } from './postgres-server.js'
import { type Standby, startStandby } from './standby.js'
import { until } from './until.js'
import { startWorker, type Worker } from './worker.js'

/** Where `migrate` puts the tables. */
const schema = 'pgmembership'

/** Migrated, to make primaries from: a standby of it that is promoted is there sooner than initdb makes one. */
export async function startOrigin(): Promise<PostgresServer> {
  const origin = await startPostgres({ fsync: false })
  await migrate({ connection: origin.url })
  return origin
}

export interface Pair {
  readonly primary: PostgresServer
  readonly standby: Standby
}

export async function openPair(origin: PostgresServer): Promise<Pair> {
  const primary = await openStandby(origin)
  await primary.promote()
  return { primary, standby: await openStandby(primary) }
}

async function openStandby(primary: PostgresServer): Promise<Standby> {
  const standby = await startStandby(primary)
  onTestFinished(() => standby[Symbol.asyncDispose]())
  return standby
}

/** A member that is a process, and the registration that it began with. */
export interface LivingMember {
  readonly worker: Worker
  readonly id: string
  readonly token: number
}

/** A process that only reads. */
export async function startReader(options: PostgresClusterOptions): Promise<Worker> {
  const worker = await startWorker()
  await worker.ask('open', options)
  await worker.ask('follow')
  return worker
}

export async function startMember(options: PostgresClusterOptions, data: string): Promise<LivingMember> {
  const worker = await startReader(options)
  return { worker, ...(await worker.ask('join', { data })) }
}

/** Every process comes to show what the table of the server has. */
export async function expectConverged(
  admin: AdminClient,
  name: string,
  workers: readonly Worker[],
): Promise<void> {
  const shown = async (): Promise<true> => {
    const table = await tableOf(admin, schema, name)
    const snapshots = await Promise.all(workers.map((worker) => worker.ask('snapshot')))
    expect(snapshots).toEqual(workers.map(() => table))
    return true
  }
  await until(shown, { message: 'every process shows the table' })
}

/** Sweeping has gone on for so long since it resumed. */
export async function sweptFor(admin: AdminClient, name: string, ms: number): Promise<void> {
  const swept = async (): Promise<boolean> => {
    const { rowCount } = await admin.query(
      `select from ${schema}.sweeps where cluster = $1 and swept_at > resumed_at + $2 * interval '1 ms'`,
      [name, ms],
    )
    return rowCount === 1
  }
  await until(swept, { withinMs: 20_000, message: `${ms} ms of sweeping` })
}

/** How often a process was told that the database had lost commits; and nothing must have hurt its host. */
export function reportsOf(worker: Worker): number {
  expect(worker.toldOf('uncaught')).toEqual([])
  return worker.toldOf('error').filter(({ message }) => message === 'The database lost commits').length
}
