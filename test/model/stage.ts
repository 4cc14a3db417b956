/** A round while it is planned: who lives by the plan, and what has been planned so far. */
import type { Chance } from '../support/chance.js'
import type { Fault, Operation, Role, Step } from './steps.js'

export const CLUSTERS = ['red', 'blue'] as const
export const PLACES = [0, 1, 2, 3, 4] as const

/** A process, as the schedule believes it to be. */
export interface Planned {
  readonly number: number
  readonly place: number
  /** From then on there is something to do with it. */
  startsMs: number
  role: Role
  /** Of the memberships that are open now; the first of them is the process's `firstMembership`th. */
  wants: ('in' | 'out' | 'unsure')[]
  firstMembership: number
  /** Stopped or blocked until then: not stopped again meanwhile. */
  busyUntilMs: number
}

export class Stage {
  readonly chance: Chance
  readonly processes: Planned[]
  readonly #steps: Step[] = []
  readonly #bear: () => number
  nowMs = 0
  serverAwayUntilMs = 0

  constructor(chance: Chance, processes: Planned[], bear: () => number) {
    this.chance = chance
    this.processes = processes
    this.#bear = bear
  }

  get steps(): readonly Step[] {
    return this.#steps.toSorted((a, b) => a.atMs - b.atMs)
  }

  add(step: Operation | Fault, afterMs = 0): void {
    this.#steps.push({ ...step, atMs: this.nowMs + afterMs })
  }

  between(fromMs: number, toMs: number): number {
    return fromMs + this.chance.below(toMs - fromMs)
  }

  /** A role at random, for the process that comes to a place. */
  role(): Role {
    const { chance } = this
    const memberships = chance.pick([0, 1, 1, 1, 2, 3])
    const crashGraceMs = chance.pick([false, 300, 400, 400] as const)
    return {
      cluster: chance.pick([CLUSTERS[0], CLUSTERS[0], CLUSTERS[1]]),
      // A long ttl tells a removal for a crash from one for silence.
      ttlMs: chance.pick(crashGraceMs === false ? [1_500, 2_000] : [1_500, 2_000, 5_000]),
      crashGraceMs,
      listens: chance.below(4) > 0,
      memberships: Array.from({ length: memberships }, () =>
        chance.below(4) === 0 ? 'stay-out' : 'register-again',
      ),
    }
  }

  start(place: number, afterMs = 0): void {
    const role = this.role()
    const number = this.#bear()
    this.processes.push({
      number,
      place,
      role,
      wants: role.memberships.map(() => 'in'),
      firstMembership: 0,
      startsMs: this.nowMs + afterMs,
      busyUntilMs: 0,
    })
    this.add({ do: 'start', process: number, place, role }, afterMs)
    for (const membership of role.memberships.keys()) {
      this.add({ do: 'join', process: number, membership }, afterMs)
    }
  }

  /** It is gone; another one takes its place after a while. */
  replace(process: Planned): void {
    this.processes.splice(this.processes.indexOf(process), 1)
    this.start(process.place, this.between(100, 1_500))
  }
}
