/** What somebody with a role may do on a connection, step by step. */
import fc from 'fast-check'
import { expect } from 'vitest'
import type { AdminClient } from './database.js'
import {
  type Argument,
  arrayLiteral,
  type Call,
  callsOf,
  MEMBERS,
  type Routine,
  type Value,
} from './fuzz-calls.js'
import type { World } from './fuzz-world.js'

export type Step =
  | Call
  | { readonly begin: string }
  | { readonly end: 'commit' | 'rollback' }
  /** Leaves a trigger of his own to be fired later. */
  | { readonly queue: true }
  /** Tables and functions that are named like ours. */
  | { readonly shadow: true }
  | { readonly set: string; readonly to: string }
  | { readonly silence: number; readonly almost?: true }
  | { readonly awaitEndOfSilence: number }
  | { readonly heartbeat: number; readonly locked: boolean }
  | { readonly setData: number }
  | { readonly leaveAndReturn: number }

/** On its own connection; the others are what happens around it. */
type Own = Extract<
  Step,
  Call | { begin: string } | { end: string } | { queue: true } | { shadow: true } | { set: string }
>

const LEVELS = ['read committed', 'repeatable read', 'serializable', 'read uncommitted']
const SETTINGS: Readonly<Record<string, readonly string[]>> = {
  search_path: ['pg_temp', '', 'pg_temp, pg_catalog', 'public'],
  array_nulls: ['off'],
  standard_conforming_strings: ['off'],
  DateStyle: ['SQL, DMY', 'German'],
  IntervalStyle: ['sql_standard'],
  TimeZone: ['America/New_York', 'Asia/Kolkata'],
  bytea_output: ['escape'],
  row_security: ['off'],
  transform_null_equals: ['on'],
  'plpgsql.extra_errors': ['all'],
  quote_all_identifiers: ['on'],
  application_name: ['fuzz members'],
  default_transaction_isolation: ['serializable'],
  client_encoding: ['LATIN1'],
  plan_cache_mode: ['force_generic_plan'],
  enable_seqscan: ['off'],
  session_replication_role: ['replica'],
  role: ['postgres', 'none'],
}

const member = fc.nat(MEMBERS - 1)
const level = fc.constantFrom(...LEVELS)

/** Mostly single steps; some that only make sense together. */
export function attacks(routines: readonly Routine[]): fc.Arbitrary<Step[]> {
  const call = callsOf(routines)
  const sweep = call.filter((some) => some.call.name.startsWith('sweep'))
  const setting = fc
    .constantFrom(...Object.keys(SETTINGS))
    .chain((set) => fc.record({ set: fc.constant(set), to: fc.constantFrom(...(SETTINGS[set] ?? [])) }))
  const step = fc.oneof(
    { arbitrary: call, weight: 10 },
    { arbitrary: fc.record({ begin: level }), weight: 2 },
    fc.record({ end: fc.constantFrom('commit' as const, 'rollback' as const) }),
    fc.record({ queue: fc.constant(true as const) }),
    fc.record({ shadow: fc.constant(true as const) }),
    setting,
    fc.record({ silence: member }),
    fc.record({ heartbeat: member, locked: fc.boolean() }),
    fc.record({ setData: member }),
    fc.record({ leaveAndReturn: member }),
  )
  const lateSweep = fc
    .tuple(member, level, call, sweep)
    .map(([n, begin, first, last]): Step[] => [
      { silence: n },
      { begin },
      first,
      { heartbeat: n, locked: true },
      last,
      { end: 'commit' },
    ])
  const queued = fc
    .tuple(member, level, call, fc.boolean())
    .map(([n, begin, last, silent]): Step[] => [
      ...(silent ? [{ silence: n }] : []),
      { begin },
      { queue: true },
      last,
      { end: 'commit' },
    ])
  const piece = fc.oneof(
    { arbitrary: step.map((one) => [one]), weight: 12 },
    { arbitrary: lateSweep, weight: 1 },
    { arbitrary: queued, weight: 1 },
  )
  return fc.array(piece, { minLength: 1, maxLength: 6 }).map((pieces) => pieces.flat())
}

/** Says on whose behalf it runs, and does what that one may do. */
const TRIGGER = (schema: string): string => `
  create temp table if not exists queued (n integer);
  create or replace function pg_temp.fired() returns trigger language plpgsql as $$
  begin
    raise warning 'fired as %', current_user;
    begin
      delete from ${schema}.members;
    exception when insufficient_privilege then null;
    end;
    return null;
  end $$;
  drop trigger if exists fire on queued;
  create constraint trigger fire after insert on queued deferrable initially deferred
    for each row execute function pg_temp.fired();`

const SHADOWS = (schema: string): string => `
  create temp table if not exists members (like ${schema}.members);
  create temp table if not exists clusters (like ${schema}.clusters);
  create temp table if not exists events (like ${schema}.events);
  create temp table if not exists sweeps (like ${schema}.sweeps);
  create or replace function pg_temp.well_formed(uuid[], bigint[]) returns boolean language sql as 'select true';
  create or replace function pg_temp.clock_timestamp() returns timestamptz language sql as 'select ''infinity''::timestamptz';
  create or replace function pg_temp.advance(text, bigint, bigint) returns text language sql as 'select ''shadow''';`

export class Attacker {
  readonly #client: AdminClient
  readonly #schema: string
  readonly #world: World
  readonly #firedAs = new Set<string>()
  readonly #role: string
  #inTransaction = false
  #ended = false

  constructor(client: AdminClient, schema: string, world: World, role: string) {
    this.#client = client
    this.#schema = schema
    this.#world = world
    this.#role = role
    client.on('notice', ({ message = '' }) => {
      const [, firedAs] = /^fired as (.*)$/.exec(message) ?? []
      if (firedAs !== undefined) this.#firedAs.add(firedAs)
    })
    client.on('end', () => (this.#ended = true))
  }

  async take(step: Step): Promise<void> {
    const world = this.#world
    if ('silence' in step) await world.silence(step.silence, step.almost)
    else if ('awaitEndOfSilence' in step) await world.awaitEndOfSilence(step.awaitEndOfSilence)
    else if ('heartbeat' in step) await world.heartbeat(step.heartbeat, step.locked)
    else if ('setData' in step) await world.setData(step.setData)
    else if ('leaveAndReturn' in step) await world.leaveAndReturn(step.leaveAndReturn)
    else if (!this.#ended) await this.#takeOwn(step)
    await world.observe()
    expect([...this.#firedAs].filter((role) => role !== this.#role)).toEqual([])
  }

  /** Leaves no transaction open; resolves to whether its session is still there. */
  async leave(): Promise<boolean> {
    if (this.#inTransaction) await this.#query('rollback')
    return !this.#ended
  }

  async #takeOwn(step: Own): Promise<void> {
    if ('begin' in step) {
      if (!this.#inTransaction) {
        await this.#query(`begin isolation level ${step.begin}`)
        this.#inTransaction = true
        // Takes its snapshot, where there is one for all of the transaction.
        await this.#query('select')
        await this.#world.noteBegin(/read (un)?committed/.test(step.begin))
      }
    } else if ('end' in step) {
      if (this.#inTransaction) await this.#query(step.end)
      this.#inTransaction = false
      this.#world.noteEnd()
    } else if ('queue' in step) {
      await this.#query(TRIGGER(this.#schema))
      await this.#query('insert into pg_temp.queued values (1)')
    } else if ('shadow' in step) {
      await this.#query(SHADOWS(this.#schema))
    } else if ('set' in step) {
      await this.#query(
        `set ${step.set} = ${step.to === '' ? `''` : step.set === 'search_path' ? step.to : `'${step.to}'`}`,
      )
    } else {
      await this.#call(step)
    }
  }

  async #call({ call, args }: Call): Promise<void> {
    const values = args.map((argument) => this.#resolve(argument))
    const cluster = call.parameters[0]?.name === 'cluster_name' ? textOf(values[0]) : null
    await this.#world.noteCall(call, cluster, (name) => {
      const value = values[call.parameters.findIndex((parameter) => parameter.name === name)]
      return value === undefined ? [] : isList(value) ? value.list : [value]
    })
    const names = call.parameters.map(({ type }, n) => `$${n + 1}::${type}`).join(', ')
    const text = `select * from ${this.#schema}.${call.name}(${names})`
    const code = await this.#query(
      text,
      values.map((value) => (isList(value) ? arrayLiteral(value.list, value.shape) : value)),
    )
    if (code === undefined) Attacker.reached.add(call.name)
    if (call.name === 'fence' && code === undefined && !this.#inTransaction) {
      const [id = null, token = null] = values.map(textOf)
      expect(this.#world.isCurrent(id, token), `fence(${id}, ${token}) passed`).toBe(true)
    }
  }

  /** Names of functions that have answered. */
  static readonly reached = new Set<string>()

  /** Returns the code with which the server refuses; an error inside of a transaction leaves it going on. */
  async #query(text: string, values: (string | null)[] = []): Promise<string | undefined> {
    const savepoint = this.#inTransaction && !/^(commit|rollback)/.test(text)
    try {
      if (savepoint) await this.#client.query('savepoint before')
      await this.#client.query(text, values.length > 0 ? values : undefined)
      return undefined
    } catch (error) {
      const { code = 'none', message } = error as { code?: string; message: string }
      // The server ends a session that idles in a transaction which has swept.
      if (this.#ended || code === '25P03') {
        this.#ended = true
      } else {
        if (UNACCEPTABLE.test(code)) expect.fail(`${code} ${message} after ${text}`)
        if (savepoint) await this.#client.query('rollback to savepoint before').catch(() => undefined)
      }
      return code
    }
  }

  #resolve(argument: Argument): Resolved {
    if (argument === null || typeof argument === 'string') return argument
    if ('list' in argument) {
      return { list: argument.list.map((value) => textOf(this.#resolve(value))), shape: argument.shape }
    }
    return this.#text(argument)
  }

  #text(value: Exclude<Value, null | string>): string {
    if ('cluster' in value) return `${this.#world.clusters[value.cluster] ?? ''}${value.suffix ?? ''}`
    if ('stranger' in value) return this.#world.strangers[value.stranger] ?? ''
    if ('repeat' in value) return value.repeat.repeat(value.times)
    if ('own' in value) return String((this.#client as unknown as { processID: number }).processID)
    const { id, token, session } = this.#world.member(value.member)
    if (value.as === 'id') return id
    if (value.as === 'session') return session
    return String(token + { 'older token': -1, 'next token': 1, token: 0 }[value.as])
  }
}

/** Internal errors, servers that go down or run out of something, and calls that do not end. */
const UNACCEPTABLE = /^(XX|53|57|58|none)/

type Resolved =
  | string
  | null
  | { readonly list: readonly (string | null)[]; readonly shape: 'plain' | 'nested' | 'shifted' }

function isList(value: Resolved): value is Exclude<Resolved, string | null> {
  return value !== null && typeof value !== 'string'
}

function textOf(value: Resolved | undefined): string | null {
  return typeof value === 'string' ? value : null
}
