/** What is judged afterwards, when everything is known that might excuse it. Each verdict throws if a promise is broken. */
import { Broken } from './broken.js'
import type { Hearing } from './hearing.js'
import type { Departure, Stay } from './log.js'
import type { MembershipModel } from './model.js'
import type { World } from './world.js'

/** What a process with nothing in its way may take from one heartbeat that is answered to the next. */
function pulseMs(ttlMs: number): number {
  // The period, an attempt that hung, and some patience with the machine.
  return Math.min(ttlMs / 3 + ttlMs / 4 + 600, 0.9 * ttlMs)
}

export class Verdicts {
  readonly #world: World
  readonly #hearing: Hearing
  readonly #judged = new Set<Stay>()
  #judgedWork = 0

  constructor(world: World, hearing: Hearing) {
    this.#world = world
    this.#hearing = hearing
  }

  /** All that is judged afterwards, when everything that excuses it is known. */
  async judge(): Promise<void> {
    await this.#world.follow()
    this.#hearing.hear()
    this.#answers()
    this.#departures()
    this.#endsOfLeases()
    await this.#fencedWork()
  }

  #answers(): void {
    for (const { model } of this.#world.inhabitants) {
      for (const membership of model.memberships) {
        const log = this.#world.logOf(membership.role.cluster)
        this.#world.history.count('checks', 'answers', membership.judgeAnswers(log))
      }
    }
  }

  /** Promises 7 and 8: who left, was it allowed, and did it know in time? */
  #departures(): void {
    const owners = new Map<string, MembershipModel>()
    for (const { model } of this.#world.inhabitants) {
      for (const membership of model.memberships) owners.set(membership.id ?? '', membership)
    }
    for (const [cluster, log] of this.#world.logs) {
      for (const stay of log.stays) {
        const { member, token, joinedMs } = stay
        if (!this.#world.removed.has(member) && owners.get(member)?.isGhost(joinedMs) === true) {
          throw new Broken(8, `${owners.get(member)?.name} had left, and came back as ${token}`, joinedMs)
        }
        if (stay.left === undefined || this.#judged.has(stay)) continue
        this.#judged.add(stay)
        this.#world.history.count('checks', `${stay.left.reason} was right`)
        const owner = owners.get(stay.member)
        if (owner === undefined && this.#world.typed.has(stay.member)) continue
        const unjust = owner === undefined ? 'nobody knows it' : this.#objection(owner, stay, stay.left)
        if (unjust !== undefined) {
          const who = owner?.name ?? stay.member
          throw new Broken(
            7,
            `${who}, token ${stay.token} of ${cluster}, was removed as ${stay.left.reason}: ${unjust}`,
            stay.left.atMs,
          )
        }
        const trustedMs = this.#hearing.trustedMs.get(`${cluster} ${stay.token}`) ?? 0
        if (stay.left.reason === 'expired' && trustedMs > stay.left.atMs + 1) {
          const late = Math.round(trustedMs - stay.left.atMs)
          throw new Broken(
            8,
            `${owner?.name ?? ''} trusted its lease ${stay.token} for ${late} ms after it had expired`,
            stay.left.atMs,
          )
        }
      }
    }
  }

  /** Why it should not have been removed. */
  #objection(owner: MembershipModel, { member, token }: Stay, left: Departure): string | undefined {
    const { atMs, reason } = left
    const { ttlMs, crashGraceMs } = owner.role
    const { place, beats } = owner.process
    if (reason === 'expired' && this.#world.troubles.serverWasAway(atMs - ttlMs, atMs)) {
      return 'the server was away, and did not give it a ttl afterwards'
    }
    if (reason === 'removed' && !this.#world.removed.has(member)) return 'no administrator removed it'
    if (!owner.relied(token, atMs)) return undefined
    switch (reason) {
      case 'expired': {
        const peaceMs = this.#world.troubles.longestPeaceMs(place, atMs - ttlMs, atMs)
        return peaceMs > pulseMs(ttlMs) ? `for ${Math.round(peaceMs)} ms nothing was in its way` : undefined
      }
      case 'crashed':
        if (crashGraceMs === false) return 'its crash detection is off'
        if (beats.some(({ fromMs, untilMs }) => fromMs > atMs - crashGraceMs && untilMs < atMs)) {
          return `it was heard within its grace of ${crashGraceMs} ms`
        }
        return this.#world.troubles.isSevered(place, atMs) ? undefined : 'its connections were not cut'
      case 'removed':
        return undefined
      default:
        return 'it still had its lease'
    }
  }

  /** Promises 7 and 8: a lease that was lost was lost for a reason, and for the one in the log. */
  #endsOfLeases(): void {
    for (const { membership, ended } of this.#hearing.takeEnded()) {
      const { token, reason, atMs } = ended
      this.#world.history.count('checks', 'ends of leases')
      const { role } = membership
      const { place } = membership.process
      if (reason === 'unreachable') {
        const peaceMs = this.#world.troubles.longestPeaceMs(place, atMs - 0.95 * role.ttlMs, atMs)
        if (peaceMs > pulseMs(role.ttlMs) && atMs < membership.endedMs) {
          throw new Broken(
            7,
            `${membership.name} lost its lease ${token}, and for ${Math.round(peaceMs)} ms nothing was in its way`,
            atMs,
          )
        }
      } else if (reason !== undefined && reason !== 'superseded') {
        const logged = this.#world.logOf(role.cluster).stay(token)?.left?.reason
        if (logged !== reason) {
          throw new Broken(
            8,
            `${membership.name} lost its lease ${token}: ${reason}; the log says ${String(logged)}`,
            atMs,
          )
        }
      }
    }
  }

  /** Promises 13 and 16: whatever was committed under a fence, its registration was there all the time. */
  async #fencedWork(): Promise<void> {
    const admin = await this.#world.admin()
    const { rows } = await admin.query<{
      n: string
      cluster: string
      token: string
      first: boolean
      fenced_ms: string
      done_ms: string
    }>(
      `select *, extract(epoch from fenced_at) * 1000 as fenced_ms, extract(epoch from done_at) * 1000 as done_ms
       from work where n > $1 order by fenced_at`,
      [this.#judgedWork],
    )
    await this.#world.follow()
    const leaders = new Map<string, { token: number; doneMs: number }>()
    for (const { n, cluster, token, first, ...times } of rows) {
      const [fencedMs, doneMs] = [Number(times.fenced_ms), Number(times.done_ms)]
      const stay = this.#world.logOf(cluster).stay(Number(token))
      this.#world.history.count('checks', 'fenced writes were right')
      this.#judgedWork = Math.max(this.#judgedWork, Number(n))
      if (stay === undefined || stay.joinedMs > fencedMs || (stay.left?.atMs ?? Infinity) < doneMs) {
        throw new Broken(
          13,
          `a transaction that token ${token} of ${cluster} fenced has committed after it had left`,
          doneMs,
        )
      }
      if (!first) continue
      const before = leaders.get(cluster)
      if (before !== undefined && before.token !== stay.token && before.doneMs > fencedMs) {
        throw new Broken(
          16,
          `${cluster} had two leaders at a time: tokens ${before.token} and ${stay.token}`,
          fencedMs,
        )
      }
      if (doneMs > (before?.doneMs ?? 0)) leaders.set(cluster, { token: stay.token, doneMs })
    }
  }
}
