/** Everything that a schedule can do: what processes are asked, and what goes wrong around them. */
import type { MembershipOptions } from 'pg-membership'
import type { StopMode } from '../support/postgres-server.js'
import type { Direction } from '../support/proxied-connection.js'

/** What a process is from its start to its end. */
export interface Role {
  readonly cluster: string
  readonly ttlMs: number
  readonly crashGraceMs: number | false
  readonly listens: boolean
  /** One a membership; none: it only reads. */
  readonly memberships: readonly NonNullable<MembershipOptions['onLost']>[]
}

interface OfProcess {
  readonly process: number
}

/** The nth membership that its process has created. */
interface OfMembership extends OfProcess {
  readonly membership: number
}

/** A place is where one process at a time lives, behind a network of its own. */
interface OfPlaces {
  readonly places: readonly number[]
}

export type Operation =
  | ({ readonly do: 'start'; readonly place: number; readonly role: Role } & OfProcess)
  /** Closes its cluster and opens it again, with new memberships. */
  | ({ readonly do: 'reopen'; readonly role: Role } & OfProcess)
  | ({ readonly do: 'exit' } & OfProcess)
  | ({ readonly do: 'join' | 'leave' | 'rejoin' } & OfMembership)
  /** Registers, and gives up waiting soon. */
  | ({ readonly do: 'try'; readonly forMs: number } & OfMembership)
  /** Longer data is filled up to `length` where it is used: a step is told in one line. */
  | ({ readonly do: 'set'; readonly data: string; readonly length?: number } & OfMembership)
  /** Writes in a transaction fenced by its registration; `lead`: only if it is first. */
  | ({ readonly do: 'write' | 'lead'; readonly forMs: number } & OfMembership)
  | ({ readonly do: 'read' } & OfProcess)

export type Fault =
  | ({ readonly do: 'kill' | 'stop' | 'continue' } & OfProcess)
  | ({ readonly do: 'block'; readonly forMs: number } & OfProcess)
  | ({ readonly do: 'freeze'; readonly direction: Direction | 'both' } & OfPlaces)
  | ({ readonly do: 'thaw' | 'cut' | 'restore' | 'reset' | 'terminate' } & OfPlaces)
  | ({ readonly do: 'slow'; readonly delayMs: number } & OfPlaces)
  /** The next call of this function takes effect, and its answer is lost. */
  | { readonly do: 'lose answer'; readonly place: number; readonly of: string }
  | { readonly do: 'crash server' }
  | { readonly do: 'stop server'; readonly mode: StopMode }
  | { readonly do: 'start server' }
  /** Somebody else's lock on its row. */
  | ({ readonly do: 'lock member'; readonly forMs: number } & OfMembership)
  | { readonly do: 'lock cluster'; readonly cluster: string; readonly forMs: number }
  /** An administrator's DELETE. */
  | ({ readonly do: 'remove' } & OfMembership)
  /** The owner's transaction, typed by hand: open for a moment. */
  | ({
      readonly do: 'repair'
      readonly how: 'delete' | 'change' | 'put back'
      readonly forMs: number
    } & OfMembership)
  | { readonly do: 'type in'; readonly cluster: string; readonly id: string; readonly forMs: number }
  /** The next call of this function reaches the server late: by then its caller may have given it up. */
  | { readonly do: 'delay'; readonly place: number; readonly of: string; readonly forMs: number }
  /** What all need is taken from them, and granted again. */
  | { readonly do: 'revoke' | 'grant'; readonly what: string }
  /** Their password is another one, and what it was again. */
  | { readonly do: 'rotate password' | 'restore password' }
  | { readonly do: 'garbage'; readonly cluster: string }
  | { readonly do: 'trim' }

/** What is answered with an Outcome. */
export type Call = Extract<
  Operation,
  | { readonly do: 'set' | 'try' }
  | { readonly process: number; readonly membership: number; readonly do: 'join' | 'leave' | 'rejoin' }
>

/** Those of the steps S that are done as K. */
export type Doing<S extends { readonly do: string }, K extends S['do']> = S extends unknown
  ? K extends S['do']
    ? S
    : never
  : never

export type Step = (Operation | Fault) & { readonly atMs: number }

/** A process that dies while nothing else happens: how soon is it gone? */
export interface CalmDeath extends OfProcess {
  readonly how: 'kill' | 'stop'
}

/** A storm of steps, in the order of their times; then all is healed, and what must be true then is looked at. */
export interface Round {
  readonly number: number
  readonly steps: readonly Step[]
  readonly death: CalmDeath | undefined
}
