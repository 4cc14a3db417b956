/** A process of its own that takes part with claims and nonces: worker-main.js runs there. */
import { fileURLToPath } from 'node:url'
import type { PostgresClusterOptions } from 'pg-membership'
import { onTestFinished } from 'vitest'
import { type Command, type Told, Worker } from '../support/worker.js'

export interface Commands {
  /** Opens its cluster, and registers. size: of its pool of nonces. */
  open: Command<PostgresClusterOptions & { readonly size: number }, undefined>
  claim: Command<readonly string[], readonly string[]>
  take: Command<number, readonly string[]>
  /** Claims of so many keys, uses nonces, and writes what it did into tables, all in fenced transactions. */
  work: Command<{ readonly url: string; readonly table: string; readonly keys: number }, undefined>
  /** Ends the work, and closes. */
  rest: Command<undefined, undefined>
}

export type Taker = Worker<Commands>

/** Killed after the test, if it is still there. */
export async function startTaker(): Promise<Taker> {
  const worker = new Worker<Commands, Told>(fileURLToPath(new URL('worker-main.js', import.meta.url)))
  onTestFinished(() => worker.kill())
  await worker.ready
  return worker
}
