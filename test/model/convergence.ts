/** What must be true when all is calm: it tells what is still wrong, and how long to wait until nothing is. */
import { digestOf, shortened } from '../support/digest.js'
import { tableOf } from '../support/event-log.js'
import { Broken } from './broken.js'
import type { Hearing } from './hearing.js'
import { type Log, SCHEMA } from './log.js'
import type { ProcessModel } from './model.js'
import { CLUSTERS } from './stage.js'
import type { World } from './world.js'

export class Convergence {
  readonly #world: World
  readonly #hearing: Hearing

  constructor(world: World, hearing: Hearing) {
    this.#world = world
    this.#hearing = hearing
  }

  /** Every call has its answer: a bound of each is that of the trouble that held it up. */
  unanswered(): string | undefined {
    const [first] = this.#world.pending.values()
    return first === undefined ? undefined : `there is no answer to ${first}`
  }

  /** Promises 1, 2, 6 and 8: the members are those who want to be, everybody sees them, and holds their leases. */
  async missing(): Promise<Broken | undefined> {
    await this.#world.follow()
    this.#hearing.hear()
    for (const cluster of CLUSTERS) {
      const living = this.#world.living
        .map(({ model }) => model)
        .filter(({ role }) => role.cluster === cluster)
      // Nobody looks, nobody sweeps.
      if (living.length === 0) continue
      const log = this.#world.logOf(cluster)
      const wrong =
        (await this.#wrongTable(log)) ??
        this.#wrongMembers(living, log) ??
        (await this.#wrongViews(living, log))
      if (wrong !== undefined) return wrong
    }
    return await this.#wrongConnections()
  }

  /** All members have been heard since sweeping went on without a break. */
  async isUnderWatch(cluster: string): Promise<boolean> {
    const admin = await this.#world.admin()
    const { rows } = await admin.query<{ watched: boolean }>(
      `select bool_and(coalesce(m.heartbeat_at > s.resumed_at, false)) is not false
         and not pgmembership.sweep_overdue($1) as watched
       from pgmembership.members m left join pgmembership.sweeps s on s.cluster = m.cluster where m.cluster = $1`,
      [cluster],
    )
    return rows[0]?.watched === true
  }

  /** Promise 4: from the log follows the table. */
  async #wrongTable(log: Log): Promise<Broken | undefined> {
    const { revision, members } = await tableOf(await this.#world.admin(), SCHEMA, log.cluster)
    if (revision === log.revision && digestOf(members) === log.digest) return undefined
    return new Broken(
      4,
      `the log of ${log.cluster} is at ${log.revision}, its table at ${revision}, or differs`,
    )
  }

  #wrongMembers(living: readonly ProcessModel[], log: Log): Broken | undefined {
    const wanted = living.flatMap(({ open }) => open.filter(({ wants }) => wants === 'in'))
    const unwanted = new Map(log.members.map((member) => [member.id, member]))
    for (const { id = '', wants } of living.flatMap(({ open }) => open))
      if (wants === 'unsure') unwanted.delete(id)
    for (const { id = '', data, onLost, name } of wanted) {
      const member = unwanted.get(id)
      unwanted.delete(id)
      const lost = onLost === 'stay-out' && this.#lastReason(log, id) !== undefined
      if (member === undefined && !lost) return new Broken(8, `${name} wants to be a member, and is not`)
      if (member !== undefined && member.data !== data) {
        return new Broken(1, `${name} carries ${shortened(member.data)}, and should ${shortened(data)}`)
      }
    }
    for (const { id, token } of unwanted.values()) {
      const owner = living.flatMap(({ open }) => open).find((membership) => membership.id === id)
      return owner === undefined
        ? new Broken(6, `token ${token} of ${log.cluster} is a member, and its process is gone`)
        : new Broken(8, `${owner.name} was told to leave, and is a member`)
    }
    return undefined
  }

  /** Why its last stay ended; undefined while it is a member, or left by itself. */
  #lastReason(log: Log, id: string): string | undefined {
    const last = [...log.stays].findLast(({ member }) => member === id)
    return last?.left?.reason === 'deregistered' ? undefined : last?.left?.reason
  }

  async #wrongViews(living: readonly ProcessModel[], log: Log): Promise<Broken | undefined> {
    for (const model of living) {
      const state = await this.#world.of(model.number).process.ask('state')
      const who = `process ${model.number}`
      if (state.revision !== log.revision || state.digest !== log.digest) {
        return new Broken(2, `${who} is at revision ${state.revision}, ${log.cluster} at ${log.revision}`)
      }
      if (state.watchedDigest !== log.digest) return new Broken(2, `a watcher in ${who} sees something else`)
      if (state.fedRevision !== log.revision) {
        return new Broken(
          4,
          `the feed of ${who} is at revision ${state.fedRevision}, the log at ${log.revision}`,
        )
      }
      if (state.mode !== (model.role.listens ? 'listening' : 'polling')) {
        return new Broken(9, `${who} is ${state.mode}`)
      }
      for (const [n, lease] of state.leases.entries()) {
        const { id = '', endedMs } = model.memberships[n] ?? {}
        const token = endedMs === Infinity ? log.members.find((member) => member.id === id)?.token : undefined
        if ((lease ?? undefined) !== token) {
          return new Broken(8, `membership ${n} of ${who} has lease ${lease}, it is registered as ${token}`)
        }
      }
    }
    return undefined
  }

  /** Promise 11: three connections a process at most, and none of what was closed or has died. */
  async #wrongConnections(): Promise<Broken | undefined> {
    const admin = await this.#world.admin()
    const { rows } = await admin.query<{ session: string; n: number }>(
      `select application_name as session, count(*)::integer as n from pg_stat_activity
       where application_name like 'pg-membership %' group by 1`,
    )
    const known = new Set<string | undefined>()
    for (const { session, n } of rows) {
      const pid = session.split(' ').at(-2)
      if (n > 3) return new Broken(11, `session ${session} has ${n} connections`)
      if (known.has(pid))
        return new Broken(11, `process ${pid} has a session left of a cluster that is closed`)
      known.add(pid)
      if (!this.#world.living.some(({ process }) => String(process.pid) === pid)) {
        return new Broken(11, `session ${session} has a connection, and its process is gone`)
      }
    }
    return undefined
  }
}
