/** Two clusters with living members, what may legally happen to these members, and whether anything else happened. */
import { randomUUID } from 'node:crypto'
import { expect } from 'vitest'
import type { AdminClient } from './database.js'
import { expectWholeLog, type LoggedEvent, silence } from './event-log.js'
import { MEMBERS, type Routine } from './fuzz-calls.js'
import { until } from './until.js'

/** The connections of a test file: as superuser, a second one, and the members' own process. */
export interface Hands {
  readonly admin: AdminClient
  readonly locker: AdminClient
  readonly member: AdminClient
  readonly schema: string
}

interface Living {
  readonly id: string
  readonly cluster: string
  readonly session: string
  token: number
  heartbeatAt: bigint
}

const ALMOST_US = 200_000n
/** Nobody is silent for a moment only, but when it is about to be waited for. */
const SLACK_US = 60_000_000n

/** What was asked for, by the name of the function; numbers are tokens or floors. */
interface Request {
  readonly name: string
  readonly cluster: string
  readonly id: string
  readonly number: bigint
}

/** The name that the members' process carries on its connections. */
export const SESSION = 'fuzz members'

export class World {
  readonly run = randomUUID().slice(0, 8)
  readonly clusters = [`fuzz ${this.run} a`, `fuzz ${this.run} b`]
  readonly strangers: readonly string[] = Array.from({ length: 3 }, () => randomUUID())
  readonly members: Living[] = []
  readonly #hands: Hands
  readonly #requests: Request[] = []
  /** Microseconds of the server's clock, rather too early. */
  readonly #silentFrom = new Map<string, bigint>()
  #silentAtBegin: readonly string[] = []
  /** Swept while they were silent. */
  readonly #expirable = new Set<string>()
  /** By whoever attacks, perhaps with a ttl of a second. */
  readonly #reregistered = new Set<string>()

  private constructor(hands: Hands) {
    this.#hands = hands
  }

  static async begin(hands: Hands): Promise<World> {
    const world = new World(hands)
    for (let n = 0; n < MEMBERS; n++) {
      const cluster = world.clusters[n % 2] ?? ''
      const living = { id: randomUUID(), cluster, session: SESSION, token: 0, heartbeatAt: 0n }
      world.members.push(living)
      await world.register(n)
    }
    await world.observe()
    return world
  }

  async register(n: number): Promise<void> {
    const { id, cluster, session, token } = this.member(n)
    const crashGrace = n % 2 === 0 ? '1 s' : null
    this.requested('register', cluster, [id], [String(token)])
    await this.#act(
      `select * from ${this.#hands.schema}.register($1, array[$2::uuid], '{x}', array[$3::bigint], '10 min', $4, $5, pg_backend_pid())`,
      [cluster, id, token, crashGrace, session],
    )
  }

  async leaveAndReturn(n: number): Promise<void> {
    const { id, cluster, token } = this.member(n)
    this.requested('deregister', cluster, [id], [String(token)])
    const { schema } = this.#hands
    await this.#act(`select ${schema}.deregister($1, array[$2::uuid], array[$3::bigint])`, [
      cluster,
      id,
      token,
    ])
    await this.register(n)
  }

  async setData(n: number): Promise<void> {
    const { id, cluster, token } = this.member(n)
    this.requested('set_data', cluster, [id], [String(token)])
    await this.#act(
      `select ${this.#hands.schema}.set_data($1, array[$2::uuid], array[$3::bigint], array[$4::bytea])`,
      [cluster, id, token, Buffer.from(randomUUID())],
    )
  }

  /** Kept aside, if somebody has the row locked at that moment. */
  async heartbeat(n: number, locked: boolean): Promise<void> {
    const { id, cluster, token } = this.member(n)
    const { schema, locker } = this.#hands
    await locker.query('begin')
    try {
      if (locked)
        await locker.query(`select from ${schema}.members where id = $1 for update skip locked`, [id])
      const { rows } = await this.#hands.member.query<{ missing: string | null }>(
        `select missing::text from ${schema}.heartbeat($1, array[$2::uuid], array[$3::bigint], $4, pg_backend_pid())`,
        [cluster, id, token, SESSION],
      )
      if (rows[0]?.missing === null) this.#silentFrom.delete(id)
    } finally {
      await locker.query('rollback')
    }
  }

  /** As if nothing had been heard of it for a day; almost: its ttl ends in a moment. */
  async silence(n: number, almost = false): Promise<void> {
    const living = this.member(n)
    const { admin, schema } = this.#hands
    await admin.query(`set lock_timeout = '100ms'`)
    try {
      await silence(admin, schema, living.cluster, [living.id])
      if (almost) {
        await admin.query(
          `update ${schema}.members set heartbeat_at = clock_timestamp() - ttl + interval '200 ms' where id = $1`,
          [living.id],
        )
      }
      living.heartbeatAt = 0n
      this.#silentFrom.set(living.id, (await this.#now()) + (almost ? ALMOST_US : 0n))
    } catch (error) {
      // Whoever is attacking holds it locked.
      if ((error as { code?: string }).code !== '55P03') throw error
    } finally {
      await admin.query('reset lock_timeout')
    }
  }

  /** Its ttl would be over by now, but for what was heard of it since. */
  async awaitEndOfSilence(n: number): Promise<void> {
    const end = (await this.#now()) + ALMOST_US
    await until(async () => (await this.#now()) > end, { message: `the ttl of member ${n} is over` })
  }

  /** Whoever was silent then may be removed by what sees only that moment. */
  async noteBegin(readCommitted: boolean): Promise<void> {
    this.#silentAtBegin = readCommitted ? [] : await this.#silent()
  }

  noteEnd(): void {
    this.#silentAtBegin = []
  }

  member(n: number): Living {
    const living = this.members[n]
    if (living === undefined) throw new Error(`no member ${n}`)
    return living
  }

  /** Notes what a call may change. */
  async noteCall(
    { name }: Routine,
    cluster: string | null,
    argument: (name: string) => readonly (string | null)[],
  ): Promise<void> {
    const act = name.replace(/_as_owner$/, '')
    if (act === 'sweep') {
      // What the sweep finds is judged a little later than this.
      const silent = await this.#silent(SLACK_US)
      for (const id of [...silent, ...this.#silentAtBegin]) this.#expirable.add(id)
    }
    if ((act === 'evict' || act === 'drain') && cluster !== null) {
      this.requested('evict', cluster, argument('member_id'), ['0'])
    }
    const ids = argument('ids')
    if (act === 'register') for (const id of ids) if (id !== null) this.#reregistered.add(id)
    if (cluster !== null) {
      this.requested(act, cluster, ids, argument(act === 'register' ? 'floors' : 'tokens'))
    }
  }

  requested(
    name: string,
    cluster: string,
    ids: readonly (string | null)[],
    numbers: readonly (string | null)[],
  ): void {
    for (const [n, id] of ids.entries()) {
      const number = numbers[n] ?? null
      if (id !== null && number !== null) this.#requests.push({ name, cluster, id, number: BigInt(number) })
    }
  }

  /** After each step: what is true now of the living, and that no heartbeat went back or comes from the future. */
  async observe(): Promise<void> {
    const { admin, schema } = this.#hands
    const { rows } = await admin.query<{ id: string; token: string; at: string; future: boolean }>(
      `select id, token, (extract(epoch from heartbeat_at) * 1000000)::bigint as at,
        heartbeat_at > clock_timestamp() as future
       from ${schema}.members where id = any ($1)`,
      [this.members.map(({ id }) => id)],
    )
    for (const { id, token, at, future } of rows) {
      const living = this.members.find((some) => some.id === id)
      if (living === undefined) continue
      expect(future, `the heartbeat of ${id} is in the future`).toBe(false)
      if (Number(token) === living.token && BigInt(at) < living.heartbeatAt) {
        expect.fail(`the heartbeat of ${id} went back by ${living.heartbeatAt - BigInt(at)} us`)
      }
      living.heartbeatAt = BigInt(at)
      living.token = Number(token)
    }
  }

  isCurrent(id: string | null, token: string | null): boolean {
    return this.members.some((living) => living.id === id && String(living.token) === token)
  }

  /** All that must be true of the clusters of this run, whoever did what. */
  async check(): Promise<void> {
    const { admin, schema } = this.#hands
    const { rows } = await admin.query<{ name: string }>(
      `select name from ${schema}.clusters where position($1 in name) > 0`,
      [this.run],
    )
    for (const { name } of rows) {
      for (const event of await expectWholeLog(admin, schema, name, name)) {
        if (!this.#isLegal(name, event)) {
          expect.fail(
            `nobody may cause this: ${event.kind} ${event.reason} of ${event.member} as ${event.token}`,
          )
        }
      }
    }
    await checkTokens(admin, schema, this.run)
  }

  async #now(): Promise<bigint> {
    const { rows } = await this.#hands.admin.query<{ now: string }>(
      'select (extract(epoch from clock_timestamp()) * 1000000)::bigint as now',
    )
    return BigInt(rows[0]?.now ?? 0)
  }

  /** Those whose ttl is over, or will be in a moment. */
  async #silent(slackUs = 0n): Promise<string[]> {
    const now = await this.#now()
    return [...this.#silentFrom].filter(([, from]) => from <= now + slackUs).map(([id]) => id)
  }

  #isLegal(cluster: string, { kind, reason, member, token }: LoggedEvent): boolean {
    const asked = (name: string, fits: (number: bigint) => boolean): boolean =>
      this.#requests.some(
        (request) =>
          request.name === name &&
          request.cluster === cluster &&
          request.id === member &&
          fits(request.number),
      )
    const equals = (number: bigint): boolean => number === BigInt(token)
    const isTheirs = this.strangers.includes(member) || this.#reregistered.has(member)
    switch (reason) {
      case 'registered':
        return kind === 'joined' && asked('register', (floor) => floor < token)
      case 'data':
        return kind === 'updated' && asked('set_data', equals)
      case 'deregistered':
        return kind === 'left' && asked('deregister', equals)
      case 'superseded':
        return kind === 'left' && asked('register', (floor) => floor >= token)
      case 'expired':
        return kind === 'left' && (isTheirs || this.#expirable.has(member))
      case 'crashed':
        return kind === 'left' && isTheirs
      case 'removed':
        return kind === 'left' && asked('evict', () => true)
      default:
        return false
    }
  }

  /** What waits for the attacker's locks gives up, and is not done. */
  async #act(text: string, values: unknown[]): Promise<void> {
    try {
      await this.#hands.member.query(text, values)
    } catch (error) {
      const { code = '' } = error as { code?: string }
      if (!['55P03', '40P01', '23505'].includes(code)) throw error
    }
  }
}

/** No token twice, none beyond what its cluster has handed out, none that JavaScript cannot hold. */
export async function checkTokens(admin: AdminClient, schema: string, within: string): Promise<void> {
  const { rows } = await admin.query<{ what: string }>(
    `with tokens as (
       select 'members' as held, cluster, token from ${schema}.members
       union all select 'the log', cluster, token from ${schema}.events where kind = 'joined'
     )
     select format('%s twice in %s of %s', token, held, cluster) as what
     from tokens where position($1 in cluster) > 0 group by held, cluster, token having count(*) > 1
     union all
     select format('%s in %s of %s, which has handed out %s', token, held, name, last_token)
     from tokens left join ${schema}.clusters on name = cluster
     where position($1 in cluster) > 0 and (token between 1 and least(last_token, 9007199254740991)) is not true
     union all
     select format('%s and its log differ', id) from ${schema}.members m
     where position($1 in cluster) > 0 and not exists (
       select from ${schema}.events e where e.cluster = m.cluster and e.member = m.id and e.token = m.token
         and e.kind = 'joined' and e.registered_at = m.registered_at
     )`,
    [within],
  )
  expect(rows.map(({ what }) => what)).toEqual([])
}
