/** Storms and calms, one after the other, until time is up or something is broken. */
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../support/until.js'
import { Broken } from './broken.js'
import { Convergence } from './convergence.js'
import { inflict } from './faults.js'
import { Hearing } from './hearing.js'
import { History } from './history.js'
import { isOperation, operate } from './operations.js'
import { Schedule } from './schedule.js'
import type { CalmDeath, Round, Step } from './steps.js'
import { SLOW } from './troubles.js'
import { Verdicts } from './verdicts.js'
import { World } from './world.js'

export interface RunOptions {
  readonly seed: number
  readonly minutes: number
  readonly signal?: AbortSignal
  readonly onRound?: (round: Round, history: History) => void
}

const LOOK_MS = 150
/** A look that takes longer says that the machine is busy. */
const SLOW_MS = 350
/** 2 x the longest ttl, a heartbeat, 2 s; and patience with the machine. */
const CALM_MS = 10_000 + 1_700 + 2_000 + 6_000
const CRASH_MS = 3_000
const SWEPT_MS = 2_000

/** What has happened, when time is up. Throws a Broken with the whole story. */
export async function run(options: RunOptions): Promise<History> {
  const history = new History()
  await using world = await World.create(history)
  const storyteller = new Run(world, options)
  try {
    await storyteller.run()
  } catch (error) {
    if (options.signal?.aborted !== true) throw storyteller.story(error)
  }
  return history
}

class Run {
  readonly #world: World
  readonly #options: RunOptions
  readonly #hearing: Hearing
  readonly #convergence: Convergence
  readonly #verdicts: Verdicts
  #doing = 'starting'

  constructor(world: World, options: RunOptions) {
    this.#world = world
    this.#options = options
    this.#hearing = new Hearing(world)
    this.#convergence = new Convergence(world, this.#hearing)
    this.#verdicts = new Verdicts(world, this.#hearing)
  }

  async run(): Promise<void> {
    const { seed, minutes, signal, onRound } = this.#options
    const endMs = performance.now() + minutes * 60_000
    const schedule = new Schedule(seed)
    const stop = new AbortController()
    const looking = this.#look(stop.signal)
    try {
      while (performance.now() < endMs && signal?.aborted !== true) {
        const round = schedule.next()
        await this.#storm(round)
        await this.#calm()
        if (round.death !== undefined) await this.#death(round.death)
        onRound?.(round, this.#world.history)
      }
      await this.#end()
    } finally {
      stop.abort()
      await looking
    }
  }

  /** The seed, what was being done, and what had happened before. */
  story(error: unknown): Error {
    const { history } = this.#world
    const atMs = error instanceof Broken ? error.atMs : Date.now()
    const what = error instanceof Error ? error.message : String(error)
    const message = `${what}\nseed ${this.#options.seed}, ${this.#doing}, at ${history.at(atMs)} of:\n${history.recent(atMs)}`
    return Object.assign(new Error(message, { cause: error }), {
      promise: error instanceof Broken ? error.promise : undefined,
    })
  }

  async #storm({ steps, number }: Round): Promise<void> {
    const startedMs = performance.now()
    for (const [n, step] of steps.entries()) {
      const aheadMs = startedMs + step.atMs - performance.now()
      if (aheadMs > 0) await sleep(aheadMs)
      this.#doing = `round ${number}, step ${n + 1} of ${steps.length}`
      if (this.#world.failure !== undefined) throw this.#world.failure
      this.#options.signal?.throwIfAborted()
      await this.#perform(step)
    }
  }

  async #perform(step: Step): Promise<void> {
    const operation = isOperation(step)
    this.#world.history.step(operation ? 'operations' : 'faults', step)
    if (operation) operate(this.#world, step)
    else await inflict(this.#world, step)
  }

  /** Heals everything, and waits until all is as it should be. */
  async #calm(): Promise<void> {
    const { troubles, proxies, server, locks, living, history } = this.#world
    this.#doing += ', in the calm after it'
    history.note('calm')
    for (const proxy of proxies) {
      proxy.thaw()
      proxy.delay(0)
      await proxy.restore()
    }
    for (const { process } of living) process.signal('SIGCONT')
    if (server.pid === undefined) await server.start()
    await this.#world.started()
    await Promise.all(locks)
    await this.#world.restore()
    troubles.endAll()
    await this.#converge()
    await this.#verdicts.judge()
  }

  async #converge(): Promise<void> {
    let last: Broken | undefined
    const calm = async (): Promise<boolean> => {
      if (this.#world.failure !== undefined) return true
      const unanswered = this.#convergence.unanswered()
      last = unanswered === undefined ? await this.#convergence.missing() : new Broken(11, unanswered)
      return last === undefined
    }
    try {
      await until(calm, { withinMs: CALM_MS, message: 'calm' })
    } catch (error) {
      throw last === undefined ? error : new Broken(last.promise, `not within ${CALM_MS} ms: ${last.message}`)
    }
    if (this.#world.failure !== undefined) throw this.#world.failure
    this.#world.history.count('checks', 'calms')
  }

  /** Promise 6: in peace, the dead are removed soon. */
  async #death({ process: number, how }: CalmDeath): Promise<void> {
    const { model } = this.#world.of(number)
    const { cluster, ttlMs, crashGraceMs } = model.role
    const members = model.open.filter(({ wants }) => wants === 'in')
    const witnesses = this.#world.living.filter(({ model }) => model.role.cluster === cluster)
    const isWatched = members.length > 0 && witnesses.length > 1
    // What was heard before sweeping resumed is no evidence. Whoever has only just come may not have swept yet.
    const watched = (): boolean | Promise<boolean> => !isWatched || this.#convergence.isUnderWatch(cluster)
    await until(watched, { withinMs: CALM_MS, message: 'all were heard since sweeping resumed' })
    // A connection that is held back would outlive its process.
    for (const proxy of this.#world.proxies) proxy.holdNoMore()
    const died = Date.now()
    this.#world.history.note(`in the calm: ${how} process ${number}`)
    await inflict(this.#world, { do: how, process: number })
    if (isWatched) {
      const crash = how === 'kill' && crashGraceMs !== false
      const boundMs = crash ? Math.min(CRASH_MS, ttlMs + SWEPT_MS) : ttlMs + SWEPT_MS
      const log = this.#world.logOf(cluster)
      const isGone = (): boolean => members.every(({ id }) => log.members.every((member) => member.id !== id))
      await until(() => isGone() || Date.now() > died + boundMs + this.#world.troubles.lostMs(died), {
        withinMs: 60_000,
        message: 'its end',
      })
      if (!isGone())
        throw new Broken(6, `after ${how}, process ${number} was a member for over ${boundMs} ms`)
      this.#world.history.count('checks', `removed after ${how}`)
    }
    if (how === 'stop') await inflict(this.#world, { do: 'continue', process: number })
    await this.#converge()
    await this.#verdicts.judge()
  }

  /** Everybody says goodbye, and nothing is left. */
  async #end(): Promise<void> {
    this.#doing = 'at the end'
    for (const { model } of this.#world.living) {
      this.#world.ask(model.number, 'close', undefined)
      model.close()
    }

    await until(
      async () => {
        await this.#world.follow()
        return this.#world.pending.size === 0 || this.#world.failure !== undefined
      },
      { withinMs: 20_000, message: 'all have closed' },
    )
    if (this.#world.failure !== undefined) throw this.#world.failure
    await this.#verdicts.judge()
    for (const { model } of this.#world.living) {
      for (const { name, lease } of model.memberships) {
        if (lease !== undefined) throw new Broken(8, `${name} still has lease ${lease} after all was closed`)
      }
    }
  }

  /** What the processes tell and the logs say, as it comes; and how busy the machine is. */
  async #look(signal: AbortSignal): Promise<void> {
    let last = Date.now()
    while (!signal.aborted) {
      try {
        await this.#world.follow()
        this.#hearing.hear()
      } catch (error) {
        // The server may be away.
        if (error instanceof Broken) this.#world.fail(error)
      }
      const now = Date.now()
      if (now - last > LOOK_MS + SLOW_MS) {
        const slow = { what: SLOW, place: 'everywhere', severs: false } as const
        this.#world.troubles.add({ ...slow, fromMs: last, untilMs: now })
      }
      last = now
      await sleep(LOOK_MS)
    }
  }
}
