/** A cluster amid transactions of others, and whether its living members live, and its dead go. */
import { randomUUID } from 'node:crypto'
import { expect } from 'vitest'
import type { AdminClient } from './database.js'
import { expectWholeLog } from './event-log.js'
import type { OtherSession } from './fuzz-others.js'
import { DYING, LIVING, type OthersStep, REFERENCES, type Registered, type Target } from './fuzz-others.js'
import { pidOf } from './locks.js'
import { endOrWait } from './pairs-stops.js'
import type { Roles } from './roles.js'
import { until } from './until.js'

/** Longer than any run, so that no living member is in danger for the slowness of the machine. */
const TTL = '10 min'
/** The shortest, where somebody sweeps late: a third of it is late. */
const SHORT_TTL = '2 s'
/** Promise 6: its ttl, and 2 s. */
const BOUND_MS = 4_000

/** It waited for what others hold, or two waited for each other. */
const GAVE_UP = ['55P03', '57014', '40P01']

/** The connections of the test. */
export interface LivingHands {
  readonly granted: Roles
  readonly admin: AdminClient
  /** As the library of a process: heartbeats, sweeps and fences go over it. */
  readonly member: AdminClient
  /** As a reader. */
  readonly reader: AdminClient
  readonly sessions: readonly OtherSession[]
  /** The schema of the application. */
  readonly app: string
}

/** The application's tables, of the role that owns the schema. */
export const APPLICATION = (app: string, { schema, nameOf }: Roles): string => `
  create schema ${app} authorization ${quoted(nameOf.owner)};
  set role ${quoted(nameOf.owner)};
  ${Object.entries(REFERENCES)
    .map(
      ([table, how]) => `
        create table ${app}.${table} (member uuid references ${schema}.members ${how});
        create index on ${app}.${table} (member);`,
    )
    .join('')}
  ${Object.values(nameOf)
    .map(
      (name) =>
        `grant usage on schema ${app} to ${quoted(name)}; grant all on all tables in schema ${app} to ${quoted(name)};`,
    )
    .join('')}
  reset role`

function quoted(name: string): string {
  return `"${name}"`
}

export class LivingWorld {
  readonly #hands: LivingHands
  readonly #schema: string
  readonly #sessions: readonly OtherSession[]
  readonly #processes: readonly Registered[]
  readonly #cluster = `others ${randomUUID()}`
  readonly #living: Registered[] = []
  readonly #dying: Registered[] = []
  readonly #silent = new Set<number>()
  #pid = 0
  #sweepsLate = false

  private constructor(hands: LivingHands, processes: readonly Registered[]) {
    this.#hands = hands
    this.#schema = hands.granted.schema
    this.#processes = processes
    this.#sessions = hands.sessions
  }

  static async begin(hands: LivingHands, processes: readonly Registered[]): Promise<LivingWorld> {
    const world = new LivingWorld(hands, processes)
    world.#pid = await pidOf(hands.member)
    await world.#register(world.#living, LIVING)
    await world.#register(world.#dying, DYING)
    // Somebody has swept all the time.
    await hands.admin.query(
      `update ${world.#schema}.sweeps set resumed_at = resumed_at - interval '1 day' where cluster = $1`,
      [world.#cluster],
    )
    return world
  }

  async #register(into: Registered[], count: number): Promise<void> {
    const ids = Array.from({ length: count }, () => randomUUID())
    const { rows } = await this.#hands.member.query<{ id: string; token: string }>(
      `select id, token from ${this.#schema}.register($1, $2, $3, $4, $5, null, '', 0)`,
      [this.#cluster, ids, ids.map(() => Buffer.from('')), ids.map(() => 0), TTL],
    )
    into.push(...rows.map(({ id, token }) => ({ id, cluster: this.#cluster, token: Number(token) })))
  }

  async run(steps: readonly OthersStep[]): Promise<void> {
    try {
      for (const step of steps) {
        await this.#take(step)
        await this.#observe()
      }
      await this.#leaveTogether()
    } finally {
      await Promise.all(this.#sessions.map((session) => session.leave()))
    }
    await this.#end()
  }

  async #take(step: OthersStep): Promise<void> {
    const { admin, member } = this.#hands
    if ('deed' in step) {
      await this.#sessions[step.session]?.take(step.deed, (target) => this.#find(target))
    } else if ('silence' in step) {
      // Not while somebody holds it.
      const { rowCount } = await admin.query(
        `update ${this.#schema}.members set heartbeat_at = heartbeat_at - interval '1 day'
         where id = (select id from ${this.#schema}.members where id = $1 for no key update skip locked)`,
        [this.#find({ dying: step.silence }).id],
      )
      if (rowCount === 1) this.#silent.add(step.silence)
    } else if ('longHeld' in step) {
      if (await this.#areTablesLocked()) return
      const { id, token } = this.#find({ living: step.longHeld })
      await admin.query('begin')
      await admin.query(
        `update ${this.#schema}.members set heartbeat_at = clock_timestamp() - interval '1 day'
         where id = (select id from ${this.#schema}.members where id = $1 for no key update skip locked)`,
        [id],
      )
      await member.query(`select ${this.#schema}.heartbeat($1, array[$2::uuid], array[$3::bigint], '', 0)`, [
        this.#cluster,
        id,
        token,
      ])
      await admin.query('commit')
      const { session, mode } = step
      await this.#sessions[session]?.take({ begin: 'read committed' }, (target) => this.#find(target))
      await this.#sessions[session]?.take(
        { lockRow: 'members', of: { living: step.longHeld }, mode },
        (target) => this.#find(target),
      )
    } else {
      this.#sweepsLate = true
    }
  }

  #find(target: Target): Registered {
    const [list, n] =
      'living' in target
        ? [this.#living, target.living]
        : 'dying' in target
          ? [this.#dying, target.dying]
          : [this.#processes, target.process]
    const found = list[n]
    if (found === undefined) throw new Error('no such member')
    return found
  }

  /** After each step: who lives is answered at once, can act, and is listed. */
  async #observe(): Promise<void> {
    if (await this.#areTablesLocked()) return
    const ids = this.#living.map(({ id }) => id)
    const tokens = this.#living.map(({ token }) => token)
    const { rows } = await this.#hands.admin.query<{ living: string; waiting: string[] }>(
      `select (select count(*) from ${this.#schema}.members where id = any ($1) and token = any ($2)) as living,
         array(select query from pg_stat_activity
           where usename = $3 and wait_event_type = 'Lock' and wait_event not in ('object', 'extend')
             and query ~ '-- (heartbeat|sweep_idle)') as waiting`,
      [ids, tokens, this.#hands.granted.nameOf.member],
    )
    expect(rows[0]?.living, 'promise 7: the living stay').toBe(String(LIVING))
    expect(rows[0]?.waiting, 'promise 7: heartbeats of processes wait for nobody').toEqual([])
    const beat = await this.#ask<{ missing: string[] | null }>(
      'heartbeat',
      `select missing from ${this.#schema}.heartbeat($1, $2, $3, '', 0)`,
      [this.#cluster, ids, tokens],
    )
    expect(beat?.missing, 'promise 7: a heartbeat finds its members').toBeNull()
    await this.#ask('sweep_idle', `select from ${this.#schema}.sweep_idle(array[$1])`, [this.#cluster])
    for (const { id, token } of this.#living) {
      const code = await this.#attempt(`select ${this.#schema}.fence($1::uuid, $2::bigint)`, [id, token])
      expect([undefined, ...GAVE_UP], 'promise 16: who lives can act').toContain(code)
    }
  }

  /** Waits for nobody. */
  async #ask<T extends object>(name: string, text: string, values: unknown[]): Promise<T | undefined> {
    const asked = this.#hands.member.query<T>(text, values)
    const ended = asked.then(
      () => undefined,
      () => undefined,
    )
    const wait = await endOrWait(this.#hands.admin, this.#pid, ended)
    if (wait !== null) await ended
    expect(wait, `promise 7: ${name} waits for nobody`).toBeNull()
    return (await asked).rows[0]
  }

  /** The code with which it fails; what waits is given up. */
  async #attempt(text: string, values: unknown[]): Promise<string | undefined> {
    const { member, admin } = this.#hands
    const code = member.query(text, values).then(
      () => undefined,
      (error: unknown) => (error as { code?: string }).code ?? 'none',
    )
    if ((await endOrWait(admin, this.#pid, code)) !== null) {
      await admin.query('select pg_cancel_backend($1)', [this.#pid])
    }
    return code
  }

  /** A lock on a whole table keeps heartbeats and sweeps out alike. */
  async #areTablesLocked(): Promise<boolean> {
    const { rowCount } = await this.#hands.admin.query(
      `select from pg_locks l join pg_class c on c.oid = l.relation
       where c.relnamespace = $1::regnamespace and l.pid = any ($2)
         and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')`,
      [this.#schema, this.#sessions.map(({ pid }) => pid)],
    )
    return rowCount !== 0
  }

  /** What the application has attached to one member refuses that one only: another joins in the same statement. */
  async #leaveTogether(): Promise<void> {
    if (await this.#areTablesLocked()) return
    const last = DYING - 1
    if (this.#silent.has(last)) return
    const leaver = this.#find({ dying: last })
    const newcomer = randomUUID()
    const code = await this.#attempt(
      `select from ${this.#schema}.register($1, $2, $3, $4, $5, null, '', 0)`,
      [this.#cluster, [leaver.id, newcomer], [Buffer.from(''), Buffer.from('')], [leaver.token, 0], TTL],
    )
    expect([undefined, ...GAVE_UP], 'promise 11: a refusal holds back its own member only').toContain(code)
  }

  /** When the others have gone: who is dead is removed in time, and nobody else. */
  async #end(): Promise<void> {
    const { admin } = this.#hands
    const dead = [...this.#silent].map((n) => this.#find({ dying: n }))
    for (const table of Object.keys(REFERENCES)) await admin.query(`delete from ${this.#hands.app}.${table}`)
    if (this.#sweepsLate) {
      await admin.query(`update ${this.#schema}.members set ttl = $2 where id = any ($1)`, [
        dead.map(({ id }) => id),
        SHORT_TTL,
      ])
      // As if sweeping had resumed just now: the dead have one more ttl.
      await admin.query(
        `update ${this.#schema}.sweeps set swept_at = clock_timestamp(), resumed_at = clock_timestamp() where cluster = $1`,
        [this.#cluster],
      )
    }
    await until(
      async () => {
        if (this.#sweepsLate) await this.#sweepLate()
        await this.#sweep()
        const { rowCount } = await admin.query(
          `select from ${this.#schema}.members where heartbeat_at + ttl < clock_timestamp() and id = any ($1)`,
          [dead.map(({ id }) => id)],
        )
        return rowCount === 0
      },
      { withinMs: BOUND_MS, message: 'promise 6: the dead are removed' },
    )
    const events = await expectWholeLog(admin, this.#schema, this.#cluster)
    for (const { kind, reason, member } of events) {
      if (kind !== 'left') continue
      const isLiving = this.#living.some(({ id }) => id === member)
      expect(isLiving, `promise 7: the living stay, and ${member} left: ${reason}`).toBe(false)
      const n = this.#dying.findIndex(({ id }) => id === member)
      if (reason === 'expired' && n >= 0)
        expect([...this.#silent], 'promise 7: who is heard stays').toContain(n)
    }
  }

  /** As a reader who keeps his transaction open first. The others sweep meanwhile. */
  async #sweepLate(): Promise<void> {
    const { reader } = this.#hands
    const isLate = `select where clock_timestamp() > transaction_timestamp() + interval '${SHORT_TTL}' / 3`
    await reader.query('begin')
    await until(
      async () => {
        await this.#sweep()
        return (await reader.query(isLate)).rowCount
      },
      { message: 'a third of the shortest ttl' },
    )
    await reader.query(`select ${this.#schema}.sweep($1)`, [this.#cluster])
    await reader.query('commit')
  }

  async #sweep(): Promise<void> {
    await this.#hands.member.query(`select ${this.#schema}.sweep($1)`, [this.#cluster])
  }
}
