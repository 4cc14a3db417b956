/** What leader-main.js can be asked, and what it tells. */
import type { Command } from '../support/worker.js'

export interface Start {
  /** Of the cluster; may be cut off. */
  readonly connection: string
  /** Of the ledger. */
  readonly direct: string
  readonly schema: string
  readonly name: string
  readonly ttlMs: number
  readonly ledger: string
}

export interface LeaderCommands {
  /** Registers, and writes whenever it leads. */
  start: Command<Start, { readonly id: string; readonly token: number }>
  resign: Command<undefined, undefined>
  close: Command<undefined, undefined>
}

export type LeaderTold =
  | { readonly kind: 'committed'; readonly n: number }
  | { readonly kind: 'trouble'; readonly message: string }
  | { readonly kind: 'uncaught'; readonly message: string }
