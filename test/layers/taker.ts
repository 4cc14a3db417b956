/** A process of its own that takes part with claims and nonces: taker-main.js runs there. */
import type { PostgresClusterOptions } from 'pg-membership'
import { onTestFinished } from 'vitest'
import { bundleOf } from '../support/bundles.js'
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

const MAIN = bundleOf(new URL('taker-main.js', import.meta.url))

/** Killed after the test, if it is still there. */
export async function startTaker(): Promise<Taker> {
  const worker = new Worker<Commands, Told>(MAIN)
  onTestFinished(() => worker.kill())
  await worker.ready
  return worker
}
