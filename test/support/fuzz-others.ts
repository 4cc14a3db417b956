/** What transactions of others do around a cluster: they lock, wait, change their timeouts, and stay open. */
import fc from 'fast-check'
import { expect } from 'vitest'
import type { AdminClient } from './database.js'
import { pidOf } from './locks.js'
import { endOrWait } from './pairs-stops.js'
import type { Role, Roles } from './roles.js'
import { until } from './until.js'

/** Whose sessions these are. */
export const SESSIONS: readonly Role[] = ['owner', 'member', 'reader', 'operator']

/** Living members, whose rows others may lock; and members that die, leave or are removed. */
export const LIVING = 2
export const DYING = 2

/** One of the members: of those of the run first, then those of real processes. */
export type Target = { readonly living: number } | { readonly dying: number } | { readonly process: number }

export type Deed =
  | { readonly begin: string }
  | { readonly end: 'commit' | 'rollback' }
  | { readonly set: string; readonly to: string; readonly local: boolean }
  | { readonly lockRow: string; readonly of: Target; readonly mode: string }
  | { readonly lockTable: string; readonly mode: string }
  | { readonly app: 'insert' | 'delete' | 'lock'; readonly table: string; readonly of: Target }
  | { readonly call: string; readonly of: Target }

export type OthersStep =
  | { readonly session: number; readonly deed: Deed }
  /** Nothing is heard of it any more. */
  | { readonly silence: number }
  /** Its row was locked for longer than its ttl, while its heartbeats came; from now on by this session. */
  | { readonly longHeld: number; readonly session: number; readonly mode: string }
  /** A reader sweeps late in its transaction, again and again, until the end. */
  | { readonly lateSweeps: true }

/** The application's tables, by how they reference members. */
export const REFERENCES: Readonly<Record<string, string>> = {
  work_cascade: 'on delete cascade',
  work_set_null: 'on delete set null',
  work_restrict: 'on delete restrict',
  work_no_action: 'on delete no action',
  work_deferred: 'deferrable initially deferred',
  work_cascade_deferred: 'on delete cascade deferrable initially deferred',
}

const LEVELS = ['read committed', 'repeatable read', 'serializable']
const TIMEOUTS: Readonly<Record<string, readonly string[]>> = {
  lock_timeout: ['0', '1ms', '20ms', '1h'],
  statement_timeout: ['0', '20ms', '1h'],
  idle_in_transaction_session_timeout: ['0', '5ms', '1h'],
}
const ROW_MODES = ['key share', 'share', 'no key update', 'update']
const TABLE_MODES = [
  ...['access share', 'row share', 'row exclusive', 'share update exclusive', 'share'],
  ...['share row exclusive', 'exclusive', 'access exclusive'],
]
/** The rows of a cluster, or of a member, in each table. */
const ROWS: Readonly<Record<string, string>> = {
  members: 'id = $1',
  clusters: 'name = $2',
  sweeps: 'cluster = $2',
  held_heartbeats: 'member = $1',
  evictions: 'member = $1',
  claims: 'member = $1',
  nonces: 'member = $1',
  events: 'member = $1',
  retention: 'true',
}

/** $1: the member, $2: its cluster, $3: its token. */
const CALLS: Readonly<Record<string, string>> = {
  fence: 'select fence($1::uuid, $3::bigint)',
  heartbeat: `select heartbeat($2, array[$1::uuid], array[$3::bigint], '', 0)`,
  sweep: 'select sweep($2)',
  sweep_idle: 'select sweep_idle(array[$2])',
  set_data: `select set_data($2, array[$1::uuid], array[$3::bigint], array['fuzz'::bytea])`,
  claim: `select claim($2, '', $1, $3, '{a,b}')`,
  fence_claims: `select fence_claims($2, '', $1, $3, '{a}')`,
  release: `select release($2, '', $1, $3, '{a}')`,
  stock_nonces: `select stock_nonces($2, 'pool', '{a,b,c}')`,
  take_nonces: `select take_nonces($2, 'pool', $1, $3, $1, '{}', 1)`,
  use_nonce: `select use_nonce($2, 'pool', $1, $3, $1, 'a')`,
}
const REMOVALS: Readonly<Record<string, string>> = {
  deregister: 'select deregister($2, array[$1::uuid], array[$3::bigint])',
  register: `select register($2, array[$1::uuid], array['again'::bytea], array[$3::bigint], '10 min', null, '', 0)`,
  evict: `select evict($2, $1, 'fuzz', '1 ms')`,
  drain: `select drain($2, $1, 'fuzz')`,
  allow: 'select allow($2, $1)',
  'delete by hand': 'delete from members where id = $1',
}

const living = fc.nat(LIVING - 1).map((n): Target => ({ living: n }))
const dying = fc.nat(DYING - 1).map((n): Target => ({ dying: n }))
const processes = fc.nat(1).map((n): Target => ({ process: n }))
const anybody = fc.oneof(living, dying, processes)
const session = fc.nat(SESSIONS.length - 1)
const local = fc.boolean()

const deed: fc.Arbitrary<Deed> = fc.oneof(
  { arbitrary: fc.record({ begin: fc.constantFrom(...LEVELS) }), weight: 3 },
  { arbitrary: fc.record({ end: fc.constantFrom('commit' as const, 'rollback' as const) }), weight: 1 },
  {
    arbitrary: fc
      .constantFrom(...Object.keys(TIMEOUTS))
      .chain((set) =>
        fc.record({ set: fc.constant(set), to: fc.constantFrom(...(TIMEOUTS[set] ?? [])), local }),
      ),
    weight: 1,
  },
  {
    arbitrary: fc.record({
      lockRow: fc.oneof(fc.constant('members'), fc.constantFrom(...Object.keys(ROWS))),
      of: anybody,
      mode: fc.constantFrom(...ROW_MODES),
    }),
    weight: 5,
  },
  {
    arbitrary: fc.record({
      lockTable: fc.constantFrom(...Object.keys(ROWS), ...Object.keys(REFERENCES)),
      mode: fc.constantFrom(...TABLE_MODES),
    }),
    weight: 1,
  },
  {
    arbitrary: fc.record({
      app: fc.constantFrom('insert' as const, 'insert' as const, 'delete' as const, 'lock' as const),
      table: fc.constantFrom(...Object.keys(REFERENCES)),
      of: anybody,
    }),
    weight: 3,
  },
  { arbitrary: fc.record({ call: fc.constantFrom(...Object.keys(CALLS)), of: anybody }), weight: 5 },
  { arbitrary: fc.record({ call: fc.constantFrom(...Object.keys(REMOVALS)), of: dying }), weight: 2 },
)

export const othersSteps: fc.Arbitrary<OthersStep[]> = fc.array(
  fc.oneof(
    { arbitrary: fc.record({ session, deed }), weight: 20 },
    { arbitrary: fc.record({ silence: fc.nat(DYING - 1) }), weight: 2 },
    {
      arbitrary: fc.record({ longHeld: fc.nat(LIVING - 1), session, mode: fc.constantFrom(...ROW_MODES) }),
      weight: 2,
    },
  ),
  { minLength: 3, maxLength: 14 },
)

export interface Registered {
  readonly id: string
  readonly cluster: string
  readonly token: number
}

/** The connection of somebody else. A statement on it may wait while others go on. */
export class OtherSession {
  readonly #granted: Roles
  readonly #role: Role
  readonly #admin: AdminClient
  readonly #path: string
  #open: { readonly client: AdminClient; readonly pid: number } | undefined
  #isBusy = false
  #isInTransaction = false

  /** `app` is the schema of the application's tables. */
  constructor(granted: Roles, role: Role, admin: AdminClient, app: string) {
    this.#granted = granted
    this.#role = role
    this.#admin = admin
    this.#path = `${granted.schema}, ${app}`
  }

  get pid(): number {
    return this.#open?.pid ?? 0
  }

  /** Returns when the statement has ended, or waits for somebody. While it waits, nothing else is done here. */
  async take(deed: Deed, resolve: (target: Target) => Registered): Promise<void> {
    if (this.#isBusy || ('begin' in deed && this.#isInTransaction)) return
    const { client, pid } = await this.#connect()
    this.#isBusy = true
    const done = this.#do(client, deed, textOf(deed, resolve)).finally(() => (this.#isBusy = false))
    await endOrWait(this.#admin, pid, done)
  }

  /** Gives up what it waits for, and takes its transaction back. */
  async leave(): Promise<void> {
    if (this.#open === undefined) return
    const { client, pid } = this.#open
    await until(
      async () => {
        if (this.#isBusy) await this.#admin.query('select pg_cancel_backend($1)', [pid])
        return !this.#isBusy
      },
      { message: `the statement of the ${this.#role} has ended` },
    )
    this.#isInTransaction = false
    // Unless the server has ended the session.
    await client.query(`rollback; reset all; set search_path = ${this.#path}`).catch(() => undefined)
  }

  async close(): Promise<void> {
    await this.#open?.client.end()
  }

  async #connect(): Promise<{ readonly client: AdminClient; readonly pid: number }> {
    if (this.#open === undefined) {
      const client = await this.#granted.as(this.#role)
      client.on('end', () => {
        if (this.#open?.client !== client) return
        this.#open = undefined
        this.#isInTransaction = false
      })
      await client.query(`set search_path = ${this.#path}`)
      this.#open = { client, pid: await pidOf(client) }
    }
    return this.#open
  }

  /** What fails in a transaction is taken back alone. */
  async #do(client: AdminClient, deed: Deed, text: string): Promise<void> {
    const isInside = this.#isInTransaction && !('begin' in deed) && !('end' in deed)
    if ('begin' in deed) this.#isInTransaction = true
    if ('end' in deed) this.#isInTransaction = false
    try {
      if (isInside) await client.query('savepoint before')
      await client.query(text)
    } catch (error) {
      const { code = 'none', message } = error as { code?: string; message: string }
      // The server ended a session that was idle, as it was set.
      const isOver = code === '25P03' || /terminated|not queryable/.test(message)
      if (!isOver && UNACCEPTABLE.test(code)) expect.fail(`${code} ${message} after ${text}`)
      if (!isOver && isInside) await client.query('rollback to savepoint before').catch(() => undefined)
    }
  }
}

/** Internal errors, and servers that go down or run out of something. */
const UNACCEPTABLE = /^(XX|53|58|none)/

function textOf(deed: Deed, resolve: (target: Target) => Registered): string {
  if ('begin' in deed) return `begin isolation level ${deed.begin}`
  if ('end' in deed) return deed.end
  if ('set' in deed) return `set ${deed.local ? 'local' : 'session'} ${deed.set} = '${deed.to}'`
  if ('lockTable' in deed) return `lock table ${deed.lockTable} in ${deed.mode} mode`
  const { id, cluster, token } = resolve(deed.of)
  if ('app' in deed) {
    if (deed.app === 'insert') return `insert into ${deed.table} values ('${id}')`
    if (deed.app === 'delete') return `delete from ${deed.table} where member = '${id}'`
    return `select from ${deed.table} where member = '${id}' for update`
  }
  const text =
    'lockRow' in deed
      ? `select from ${deed.lockRow} where ${ROWS[deed.lockRow] ?? ''} for ${deed.mode}`
      : (CALLS[deed.call] ?? REMOVALS[deed.call] ?? '')
  return text.replaceAll('$1', `'${id}'`).replaceAll('$2', `'${cluster}'`).replaceAll('$3', String(token))
}
