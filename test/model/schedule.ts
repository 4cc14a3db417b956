/**
 * What will happen, round by round, from a seed alone: nothing that is observed changes it. The schedule
 * knows from its own plan who lives and what is broken, so that the same seed gives the same steps on
 * every machine.
 */
import { Chance } from '../support/chance.js'
import { FAULTS, OPERATIONS, type Plan } from './plans.js'
import { PLACES, type Planned, Stage } from './stage.js'
import type { CalmDeath, Round } from './steps.js'

const ROUND_MS = 9_000
/** Shares of faults among all steps. A round without any shows what must not happen by itself. */
const ROUGHNESS = [0, 0.05, 0.15, 0.3] as const
const LONGEST_PAUSE_MS = 160

export class Schedule {
  readonly #chance: Chance
  readonly #processes: Planned[] = []
  #born = 0
  #round = 0
  #vacant: readonly number[] = PLACES

  constructor(seed: number) {
    this.#chance = new Chance(seed)
  }

  next(): Round {
    const stage = new Stage(this.#chance, this.#processes, () => ++this.#born)
    for (const place of this.#vacant) stage.start(place)
    this.#vacant = []
    const roughness = this.#chance.pick(ROUGHNESS)
    while (stage.nowMs < ROUND_MS) {
      stage.nowMs += this.#chance.below(LONGEST_PAUSE_MS)
      plan(stage, this.#chance.next() < roughness ? FAULTS : OPERATIONS)
    }
    for (const process of this.#processes) Object.assign(process, { startsMs: 0, busyUntilMs: 0 })
    return { number: ++this.#round, steps: stage.steps, death: this.#death() }
  }

  #death(): CalmDeath | undefined {
    const how = this.#chance.pick(['kill', 'kill', 'stop', undefined] as const)
    // A crash shows best where the ttl would take long.
    const slow = this.#processes.filter(({ role }) => role.ttlMs >= 5_000 && role.memberships.length > 0)
    const process = this.#chance.pick(how === 'kill' && slow.length > 0 ? slow : this.#processes)
    if (how === undefined || process.role.memberships.length === 0) return undefined
    if (how === 'kill') {
      this.#processes.splice(this.#processes.indexOf(process), 1)
      this.#vacant = [process.place]
    }
    return { process: process.number, how }
  }
}

function plan(stage: Stage, plans: readonly Plan[]): void {
  let left = stage.chance.below(plans.reduce((sum, { weight }) => sum + weight, 0))
  for (const { weight, add } of plans) {
    if (left < weight) {
      add(stage)
      return
    }
    left -= weight
  }
}
