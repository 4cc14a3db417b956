/** What a process of the model test can be asked, and what it reports. process-main.js runs in that process. */
import type { MembershipOptions, PostgresClusterOptions } from 'pg-membership'
import { bundleOf } from '../support/bundles.js'
import { type Command, Worker } from '../support/worker.js'

interface Which {
  readonly n: number
}

/** How a call on a membership ended, and what the process's snapshot showed in that very moment. */
export interface Outcome {
  /** Of the error that it was rejected with. */
  readonly code?: string | undefined
  readonly token?: number | undefined
  readonly seenToken?: number | undefined
  /** Shortened. */
  readonly seenData?: string | undefined
  /** Another call was made meanwhile: what is seen may be of its making. */
  readonly overtaken: boolean
}

export interface State {
  readonly mode: string
  readonly revision: number
  readonly digest: string
  readonly watchedDigest: string
  /** The last change that its feed told, or the snapshot from which it goes on. */
  readonly fedRevision: number
  /** The tokens of the leases of all memberships ever created. */
  readonly leases: readonly (number | null)[]
}

export interface ProcessCommands {
  /** Closes what was open before; the ids of the new memberships. */
  open: Command<
    PostgresClusterOptions & { readonly memberships: readonly MembershipOptions[] },
    { readonly ids: readonly string[] }
  >
  join: Command<Which, Outcome>
  leave: Command<Which, Outcome>
  rejoin: Command<Which, Outcome>
  try: Command<Which & { readonly forMs: number }, Outcome>
  set: Command<Which & { readonly data: string }, Outcome>
  write: Command<
    Which & { readonly forMs: number; readonly url: string; readonly onlyFirst: boolean },
    'committed' | 'refused' | 'not first' | 'failed'
  >
  /** The revision that a fresh read shows, or why there is none; neither: it was closed meanwhile. */
  read: Command<undefined, { readonly revision?: number; readonly code?: string }>
  block: Command<{ readonly forMs: number }, undefined>
  state: Command<undefined, State>
  close: Command<undefined, { readonly tookMs: number }>
}

export type ProcessTold =
  | {
      readonly kind: 'snapshot'
      readonly cluster: string
      /** Counts the clusters that it had open. */
      readonly opened: number
      readonly revision: number
      readonly digest: string
    }
  /** Its feed of changes begins after this revision, which a snapshot shows; again, since the log was trimmed. */
  | {
      readonly kind: 'feeds'
      readonly cluster: string
      readonly opened: number
      readonly revision: number
      readonly again: boolean
    }
  /** What its feed told. */
  | {
      readonly kind: 'fed'
      readonly cluster: string
      readonly opened: number
      readonly revision: number
      readonly digest: string
    }
  | { readonly kind: 'granted'; readonly n: number; readonly token: number; readonly calls: number }
  | {
      readonly kind: 'ended'
      readonly n: number
      readonly token: number
      readonly atMs: number
      readonly code: string
      readonly reason?: string
    }
  /** Which leases were trusted at a moment. */
  | {
      readonly kind: 'trusts'
      readonly cluster: string
      readonly atMs: number
      readonly tokens: readonly number[]
    }
  /** A heartbeat was answered. */
  | { readonly kind: 'beat'; readonly fromMs: number; readonly untilMs: number }
  /** It was not running. */
  | { readonly kind: 'stalled'; readonly fromMs: number; readonly untilMs: number }
  | { readonly kind: 'closed'; readonly tookMs: number; readonly fromMs: number }
  | { readonly kind: 'uncaught'; readonly message: string }

export type Process = Worker<ProcessCommands, ProcessTold>

const MAIN = bundleOf(new URL('process-main.js', import.meta.url))

export function forkProcess(): Process {
  return new Worker<ProcessCommands, ProcessTold>(MAIN)
}
