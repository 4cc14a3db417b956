/** Compares what the processes report by themselves with the logs, as it comes. */
import { Broken } from './broken.js'
import type { MembershipModel, ProcessModel } from './model.js'
import type { ProcessTold } from './process.js'
import { CLOSE_TIMEOUT_MS, type Inhabitant, type World } from './world.js'

type Told<K extends ProcessTold['kind']> = Extract<ProcessTold, { readonly kind: K }>
type Ended = Told<'ended'>

/** Beyond its bound, for a machine with other things to do. */
const CLOSE_SLACK_MS = 1_500

export class Hearing {
  /** Until when a token was trusted by whoever held it, as far as it has said. */
  readonly trustedMs = new Map<string, number>()
  /** Ends of leases since they were last asked for. */
  #ended: { readonly membership: MembershipModel; readonly ended: Ended }[] = []
  readonly #world: World
  readonly #heard = new Map<Inhabitant, number>()
  /** Of the cluster that a process has open now: its count, and the last revision seen there. */
  readonly #seen = new Map<ProcessModel, { readonly opened: number; readonly revision: number }>()
  /** The same of its feed of changes. */
  readonly #fed = new Map<ProcessModel, { readonly opened: number; readonly revision: number }>()

  constructor(world: World) {
    this.#world = world
  }

  /** Everything that was told, up to what the logs do not know yet. */
  hear(): void {
    for (const inhabitant of this.#world.inhabitants) {
      const { model, process } = inhabitant
      let n = this.#heard.get(inhabitant) ?? 0
      for (let told = process.told[n]; told !== undefined; told = process.told[++n]) {
        if (!this.#take(model, told)) break
      }
      this.#heard.set(inhabitant, n)
      if (process.output !== '') throw new Broken(12, `process ${model.number} printed: ${process.output}`)
    }
  }

  takeEnded(): readonly { readonly membership: MembershipModel; readonly ended: Ended }[] {
    return this.#ended.splice(0)
  }

  /** False: the log has to catch up first. */
  #take(model: ProcessModel, told: ProcessTold): boolean {
    const { place, number } = model
    switch (told.kind) {
      case 'snapshot':
        return this.#snapshot(model, told)
      case 'feeds':
        this.#feeds(model, told)
        break
      case 'fed':
        return this.#change(model, told)
      case 'granted':
        this.#membership(model, told.n).grantedLease(told)
        break
      case 'ended': {
        const membership = this.#membership(model, told.n)
        membership.endedLease(told)
        this.#ended.push({ membership, ended: told })
        break
      }
      case 'trusts':
        for (const token of told.tokens) this.trustedMs.set(`${told.cluster} ${token}`, told.atMs)
        break
      case 'beat':
        model.beats.push(told)
        break
      case 'stalled':
        this.#world.troubles.add({ ...told, what: 'stalled', place, severs: false })
        break
      case 'closed': {
        const peaceMs = this.#world.troubles.longestPeaceMs(place, told.fromMs, told.fromMs + told.tookMs)
        if (Math.min(told.tookMs, peaceMs) > CLOSE_TIMEOUT_MS + CLOSE_SLACK_MS) {
          throw new Broken(11, `process ${number} took ${Math.round(told.tookMs)} ms to close its cluster`)
        }
        break
      }
      case 'uncaught':
        throw new Broken(12, `process ${number}: ${told.message}`)
    }
    return true
  }

  #snapshot(model: ProcessModel, told: Told<'snapshot'>): boolean {
    const { revision, opened, digest } = told
    const log = this.#world.logOf(told.cluster)
    if (revision > log.revision) return false
    const before = this.#seen.get(model)
    if (before?.opened === opened && revision < before.revision) {
      throw new Broken(3, `process ${model.number} saw revision ${revision} after ${before.revision}`)
    }
    if (digest !== log.digestAt(revision)) {
      throw new Broken(3, `what process ${model.number} saw as revision ${revision} never was`)
    }
    if (log.isInside(revision)) {
      throw new Broken(4, `process ${model.number} saw half a transaction, at revision ${revision}`)
    }
    this.#seen.set(model, { opened, revision })
    this.#world.history.count('checks', 'snapshots')
    return true
  }

  #feeds(model: ProcessModel, { opened, revision, again }: Told<'feeds'>): void {
    const before = this.#fed.get(model)
    if (again && !this.#world.wasTrimmed) {
      throw new Broken(4, `process ${model.number} was told that the log was trimmed, and it was not`)
    }
    if (before?.opened === opened && revision < before.revision) {
      throw new Broken(
        3,
        `the feed of process ${model.number} goes on at ${revision} after ${before.revision}`,
      )
    }
    this.#fed.set(model, { opened, revision })
  }

  /** Every change once, in order, as the log has it. */
  #change(model: ProcessModel, { cluster, opened, revision, digest }: Told<'fed'>): boolean {
    const log = this.#world.logOf(cluster)
    if (revision > log.revision) return false
    const before = this.#fed.get(model)
    if (before?.opened !== opened || revision !== before.revision + 1) {
      throw new Broken(4, `process ${model.number} was fed revision ${revision} after ${before?.revision}`)
    }
    if (digest !== log.changeAt(revision)) {
      throw new Broken(
        4,
        `what process ${model.number} was fed as revision ${revision} never happened: ${digest}`,
      )
    }
    this.#fed.set(model, { opened, revision })
    this.#world.history.count('checks', 'changes fed')
    return true
  }

  #membership(model: ProcessModel, n: number): MembershipModel {
    const membership = model.memberships[n]
    if (membership === undefined) throw new Error(`process ${model.number} has no membership ${n}`)
    return membership
  }
}
