/** From a path and its parameters to an answer. Pages that ask the same at the same time share one question. */
import { performance } from 'node:perf_hooks'
import type { Query } from '../postgres/query.js'
import type { Finding, Findings } from './answers.js'
import type { Database } from './database.js'
import { changes, data, members, pulse, timeline } from './questions.js'
import { Parameters, RequestError } from './requests.js'

/** How long an answer is given again to whoever asks the same. A failure, too: so nobody hammers a database in trouble. */
const FRESH_MS = 900
/** The doctor asks much more, of what changes slowly. */
const FINDINGS_FRESH_MS = 15_000
/** Different questions that wait for an answer. Beyond that the server is busy. */
const MAX_KEPT = 64
const MAX_CHANGES = 1_000
const DEFAULT_CHANGES = 100

/** Looks at the whole schema and reports, through a connection that may only read. */
export type Diagnose = (query: Query) => Promise<readonly Finding[]>

export interface AnswererOptions {
  readonly database: Database
  readonly schema: string
  readonly diagnose: Diagnose
}

interface Kept {
  readonly text: Promise<string>
  /** Until it is answered: for ever. */
  untilMs: number
}

interface Route {
  readonly parameters: readonly string[]
  readonly freshMs: number
  /** Checks the parameters at once, and returns what asks the database. */
  readonly plan: (parameters: Parameters) => (query: Query) => Promise<object>
}

export class Answerer {
  readonly #database: Database
  readonly #routes: ReadonlyMap<string, Route>
  readonly #kept = new Map<string, Kept>()

  constructor({ database, schema, diagnose }: AnswererOptions) {
    this.#database = database
    this.#routes = routes(schema, diagnose)
  }

  /** JSON; undefined: there is no such path. */
  answer(path: string, search: URLSearchParams): Promise<string> | undefined {
    const route = this.#routes.get(path)
    if (route === undefined) return undefined
    const read = route.plan(new Parameters(search, route.parameters))
    search.sort()
    const key = `${path}?${search.toString()}`
    this.#forget(performance.now())
    const kept = this.#kept.get(key) ?? this.#ask(read, key, route.freshMs)
    return kept.text
  }

  #ask(read: (query: Query) => Promise<object>, key: string, freshMs: number): Kept {
    if (this.#kept.size >= MAX_KEPT) this.#forget(Infinity)
    if (this.#kept.size >= MAX_KEPT) throw new RequestError(503, 'Too many questions at the same time')
    const text = this.#database.ask(read).then((answer) => JSON.stringify(answer))
    const kept: Kept = { text, untilMs: Infinity }
    this.#kept.set(key, kept)
    text.then(
      () => (kept.untilMs = performance.now() + freshMs),
      () => (kept.untilMs = performance.now() + FRESH_MS),
    )
    return kept
  }

  #forget(nowMs: number): void {
    for (const [key, { untilMs }] of this.#kept) if (untilMs < nowMs) this.#kept.delete(key)
  }
}

function routes(schema: string, diagnose: Diagnose): ReadonlyMap<string, Route> {
  return new Map<string, Route>([
    [
      '/api/pulse',
      {
        parameters: ['cluster'],
        freshMs: FRESH_MS,
        plan: (of) => {
          const cluster = of.cluster()
          return (query) => pulse(query, cluster, schema)
        },
      },
    ],
    [
      '/api/members',
      {
        parameters: ['cluster', 'at'],
        freshMs: FRESH_MS,
        plan: (of) => {
          const [cluster, atMs] = [of.cluster(), of.momentMs('at')]
          return (query) => members(query, cluster, atMs)
        },
      },
    ],
    [
      '/api/timeline',
      {
        parameters: ['cluster', 'from', 'to'],
        freshMs: FRESH_MS,
        plan: (of) => {
          const cluster = of.cluster()
          const fromMs = of.required('from', of.momentMs('from'))
          const toMs = of.required('to', of.momentMs('to'))
          if (fromMs >= toMs) throw new RequestError(400, 'from must be before to')
          return (query) => timeline(query, cluster, { fromMs, toMs })
        },
      },
    ],
    [
      '/api/changes',
      {
        parameters: ['cluster', 'at', 'limit'],
        freshMs: FRESH_MS,
        plan: (of) => {
          const [cluster, atMs] = [of.cluster(), of.momentMs('at')]
          const limit = of.integer('limit', 1, MAX_CHANGES) ?? DEFAULT_CHANGES
          return (query) => changes(query, cluster, { atMs, limit })
        },
      },
    ],
    [
      '/api/data',
      {
        parameters: ['cluster', 'id', 'token', 'at'],
        freshMs: FRESH_MS,
        plan: (of) => {
          const cluster = of.required('cluster', of.cluster())
          const token = of.required('token', of.integer('token', 1, Number.MAX_SAFE_INTEGER))
          const member = { id: of.id(), token, atMs: of.momentMs('at') }
          return (query) => data(query, cluster, member)
        },
      },
    ],
    [
      '/api/findings',
      {
        parameters: [],
        freshMs: FINDINGS_FRESH_MS,
        plan:
          () =>
          async (query): Promise<Findings> => ({ findings: await diagnose(query) }),
      },
    ],
  ])
}
