/** A process of its own that takes part in a cluster: worker-main.js runs there, this is the parent's side. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import type { Member, MembershipOptions, PostgresClusterOptions, Status } from 'pg-membership'
import { expect, onTestFinished } from 'vitest'
import { bundleOf } from './bundles.js'
import { until } from './until.js'

export interface Command<P, R> {
  readonly parameters: P
  readonly result: R
}

export interface Commands {
  /** Opens its cluster; options that survive JSON, and perhaps what never answers, or a logger that throws. */
  open: Command<
    PostgresClusterOptions & {
      readonly throwingLogger?: boolean
      /** The function that finds the connection, or the resolver of names. */
      readonly hanging?: 'connection' | 'names'
    },
    undefined
  >
  /** Tells every snapshot from now on. */
  follow: Command<undefined, undefined>
  join: Command<MembershipOptions, { readonly id: string; readonly token: number }>
  /** Of its nth membership; resolves when its own snapshot shows it. */
  setData: Command<{ readonly n: number; readonly data: string }, undefined>
  /** Joins from many sessions, as that many processes would, with that many memberships each. */
  crowd: Command<
    PostgresClusterOptions & { readonly sessions: number; readonly memberships: number },
    undefined
  >
  /** The token of its nth membership's lease. */
  lease: Command<number, number | undefined>
  nextLease: Command<number, number>
  snapshot: Command<undefined, { readonly revision: number; readonly members: readonly Member[] }>
  mode: Command<undefined, Status['mode']>
  churn: Command<{ readonly seed: number; readonly lanes: number }, undefined>
  lead: Command<{ readonly url: string; readonly schema: string; readonly table: string }, undefined>
  /** Stops churning or leading. */
  rest: Command<undefined, undefined>
  /** Tells 'blocking', and blocks the event loop; whether each membership trusts its lease right afterwards. */
  block: Command<number, readonly boolean[]>
  /** From now on its Date is off by this. */
  shiftDate: Command<number, undefined>
  close: Command<undefined, undefined>
  /** Ends when nothing keeps it alive. */
  letGo: Command<undefined, undefined>
}

/** What a worker says unasked. */
export type Told =
  | { readonly kind: 'snapshot'; readonly revision: number; readonly digest: string }
  | { readonly kind: 'watched'; readonly revision: number; readonly tokens: readonly number[] }
  | { readonly kind: 'committed'; readonly n: number }
  | { readonly kind: 'refused' }
  | { readonly kind: 'lost'; readonly reason: string }
  /** On the channel pg-membership:error. */
  | { readonly kind: 'error'; readonly message: string }
  | { readonly kind: 'blocking' }
  | { readonly kind: 'stalled'; readonly stalledMs: number; readonly trusted: readonly boolean[] }
  | { readonly kind: 'trouble'; readonly message: string }
  | { readonly kind: 'uncaught'; readonly message: string }

interface Answer {
  readonly kind: 'answer'
  readonly id: number
  readonly result?: unknown
  readonly error?: string
}

type Telling<T> = T | Answer | { readonly kind: 'ready' }

export interface Request {
  readonly id: number
  readonly command: string
  readonly parameters: unknown
}

const MAIN = bundleOf(new URL('worker-main.js', import.meta.url))

/** Killed after the test, if it is still there. */
export async function startWorker(): Promise<Worker> {
  const worker = new Worker()
  onTestFinished(() => worker.kill())
  await worker.ready
  return worker
}

/** In its first turn after it was not running for so long, which a busy machine alone does not make: whom it trusted. */
export async function firstTurnAfter(worker: Worker, ms: number): Promise<readonly boolean[]> {
  const { trusted } = await until(() => worker.toldOf('stalled').find(({ stalledMs }) => stalledMs >= ms), {
    message: `its first turn after ${ms} ms`,
  })
  return trusted
}

/** Nothing went wrong in it, nothing was printed, and nothing keeps it alive. */
export async function expectCleanExit(worker: Worker): Promise<void> {
  const letGo = worker.ask('letGo')
  letGo.catch(() => undefined)
  let exited = false
  const exit = worker.exit().finally(() => (exited = true))
  await until(() => exited, { withinMs: 2_000, message: 'the process ends by itself' })
  expect(await exit).toBe(0)
  expect(worker.toldOf('uncaught')).toEqual([])
  expect(worker.toldOf('trouble')).toEqual([])
  expect(worker.output).toBe('')
}

/** C: what it can be asked; T: what it tells unasked. */
export class Worker<
  C extends { readonly [K in keyof C]: Command<unknown, unknown> } = Commands,
  T extends { readonly kind: string } = Told,
> {
  readonly told: T[] = []
  readonly ready: Promise<void>
  readonly #process: ChildProcess
  readonly #ended: Promise<unknown>
  readonly #asked = new Map<number, { resolve: (result: unknown) => void; reject: (error: Error) => void }>()
  #output = ''

  constructor(main = MAIN) {
    this.#process = fork(main, { execArgv: [], stdio: ['ignore', 'pipe', 'pipe', 'ipc'] })
    this.#ended = once(this.#process, 'close').then(() => {
      for (const { reject } of this.#asked.values()) reject(new Error(`worker ${this.pid} ended`))
    })
    this.ready = new Promise((resolve, reject) => {
      this.#process.on('message', (telling: Telling<T>) => {
        if (telling.kind === 'ready') resolve()
        else if (telling.kind === 'answer') this.#answer(telling as Answer)
        else this.told.push(telling as T)
      })
      void this.#ended.then(() => reject(new Error(`worker ${this.pid} did not start: ${this.#output}`)))
    })
    this.ready.catch(() => undefined)
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => (this.#output += text))
    }
  }

  get pid(): number {
    return this.#process.pid ?? 0
  }

  get isRunning(): boolean {
    return this.#process.exitCode === null && this.#process.signalCode === null
  }

  /** All that it wrote to stdout and stderr. */
  get output(): string {
    return this.#output
  }

  toldOf<K extends T['kind']>(kind: K): Extract<T, { readonly kind: K }>[] {
    return this.told.filter((told): told is Extract<T, { readonly kind: K }> => told.kind === kind)
  }

  ask<K extends keyof C & string>(
    command: K,
    ...[parameters]: C[K]['parameters'] extends undefined ? [] : [C[K]['parameters']]
  ): Promise<C[K]['result']> {
    const id = this.#asked.size
    const answer = new Promise((resolve, reject) => {
      this.#asked.set(id, { resolve, reject })
      if (!this.isRunning) reject(new Error(`worker ${this.pid} has ended`))
      else
        this.#process.send({ id, command, parameters } satisfies Request, (error) => error && reject(error))
    })
    // It may be killed before it answers.
    answer.catch(() => undefined)
    return answer
  }

  signal(signal: 'SIGSTOP' | 'SIGCONT'): void {
    this.#process.kill(signal)
  }

  /** SIGKILL; resolves when all that it had said was heard. */
  async kill(): Promise<void> {
    this.#process.kill('SIGKILL')
    await this.#ended
  }

  /** By itself; its exit code. */
  async exit(): Promise<number | null> {
    await this.#ended
    return this.#process.exitCode
  }

  #answer({ id, result, error }: Answer): void {
    const asked = this.#asked.get(id)
    if (error === undefined) asked?.resolve(result)
    else asked?.reject(new Error(error))
  }
}
