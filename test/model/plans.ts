/** Each way in which a schedule can go on, and how often. A plan adds its steps, and the steps that end them. */
import { REVOCABLE } from './roles.js'
import { CLUSTERS, PLACES, type Planned, type Stage } from './stage.js'

export interface Plan {
  readonly weight: number
  readonly add: (stage: Stage) => void
}

const PERIODS_MS = [
  [100, 300],
  [300, 1_200],
  [1_200, 4_500],
] as const

/** Bytes of UTF-8: of ASCII, but for what is in it already. */
const LARGEST = 1_048_576

/** Some shorter than a grace, some than a ttl, some longer than both. */
function period(stage: Stage): number {
  const [fromMs, toMs] = stage.chance.pick(PERIODS_MS)
  return stage.between(fromMs, toMs)
}

/** One place mostly, sometimes several, sometimes all. */
function places(stage: Stage): readonly number[] {
  const { chance } = stage
  return chance.pick([[chance.pick(PLACES)], PLACES.filter(() => chance.below(2) === 0), PLACES])
}

/** Calls back with one that lives at this moment of the plan. */
function withProcess(use: (stage: Stage, process: Planned) => void): (stage: Stage) => void {
  return (stage) => {
    const living = stage.processes.filter(({ startsMs }) => startsMs <= stage.nowMs)
    if (living.length > 0) use(stage, stage.chance.pick(living))
  }
}

/** Not one that is stopped or blocked already. */
function withFreeProcess(use: (stage: Stage, process: Planned) => void): (stage: Stage) => void {
  return withProcess((stage, process) => {
    if (process.busyUntilMs <= stage.nowMs) use(stage, process)
  })
}

interface Chosen {
  readonly process: Planned
  /** Among those that are open now. */
  readonly n: number
  readonly target: { readonly process: number; readonly membership: number }
}

function withMembership(use: (stage: Stage, chosen: Chosen) => void): (stage: Stage) => void {
  return withProcess((stage, process) => {
    if (process.wants.length === 0) return
    const n = stage.chance.below(process.wants.length)
    use(stage, { process, n, target: { process: process.number, membership: process.firstMembership + n } })
  })
}

/** Not while the server is away: there would be nobody to do it to. */
function withServer(use: (stage: Stage) => void): (stage: Stage) => void {
  return (stage) => {
    if (stage.serverAwayUntilMs <= stage.nowMs) use(stage)
  }
}

export const OPERATIONS: readonly Plan[] = [
  {
    weight: 20,
    add: withMembership((stage, { process, n, target }) => {
      process.wants[n] = 'in'
      stage.add({ do: 'join', ...target })
    }),
  },
  {
    weight: 14,
    add: withMembership((stage, { process, n, target }) => {
      process.wants[n] = 'out'
      stage.add({ do: 'leave', ...target })
    }),
  },
  {
    weight: 10,
    add: withMembership((stage, { process, n, target }) => {
      process.wants[n] = 'in'
      stage.add({ do: 'rejoin', ...target })
    }),
  },
  {
    weight: 8,
    add: withMembership((stage, { process, n, target }) => {
      // Whoever wants to be in already would be out after an abort: only one who is out tries.
      if (process.wants[n] !== 'out') return
      process.wants[n] = 'unsure'
      stage.add({ do: 'try', ...target, forMs: stage.between(0, 60) })
    }),
  },
  {
    weight: 24,
    add: withMembership((stage, { target }) => {
      const data = `${stage.chance.below(1_000_000)} ${'ü'.repeat(stage.chance.below(40))}`
      stage.add({ do: 'set', ...target, data })
    }),
  },
  {
    weight: 1,
    add: withMembership((stage, { target }) => {
      const data = `${stage.chance.below(1_000_000)} large `
      const length = stage.chance.pick([100_000, 300_000, LARGEST])
      stage.add({ do: 'set', ...target, data, length })
      // It is to be seen, not to stay: everybody reads it again after each trouble.
      stage.add({ do: 'set', ...target, data }, stage.between(1_000, 4_000))
    }),
  },
  {
    weight: 8,
    add: withMembership((stage, { target }) =>
      stage.add({ do: 'write', ...target, forMs: stage.between(0, 400) }),
    ),
  },
  {
    weight: 12,
    add: withMembership((stage, { target }) =>
      stage.add({ do: 'lead', ...target, forMs: stage.between(0, 400) }),
    ),
  },
  { weight: 8, add: withProcess((stage, { number }) => stage.add({ do: 'read', process: number })) },
  {
    weight: 2,
    add: withProcess((stage, process) => {
      process.role = stage.role()
      process.firstMembership += process.wants.length
      process.wants = process.role.memberships.map(() => 'in')
      stage.add({ do: 'reopen', process: process.number, role: process.role })
      for (const n of process.wants.keys()) {
        stage.add({ do: 'join', process: process.number, membership: process.firstMembership + n })
      }
    }),
  },
  {
    weight: 1,
    add: withFreeProcess((stage, process) => {
      stage.add({ do: 'exit', process: process.number })
      stage.replace(process)
    }),
  },
]

export const FAULTS: readonly Plan[] = [
  {
    weight: 10,
    add: withFreeProcess((stage, process) => {
      stage.add({ do: 'kill', process: process.number })
      stage.replace(process)
    }),
  },
  {
    weight: 10,
    add: withFreeProcess((stage, process) => {
      const forMs = period(stage)
      process.busyUntilMs = stage.nowMs + forMs
      stage.add({ do: 'stop', process: process.number })
      stage.add({ do: 'continue', process: process.number }, forMs)
    }),
  },
  {
    weight: 6,
    add: withFreeProcess((stage, process) => {
      const forMs = stage.between(100, 3_000)
      process.busyUntilMs = stage.nowMs + forMs
      stage.add({ do: 'block', process: process.number, forMs })
    }),
  },
  {
    weight: 10,
    add: (stage) => {
      const where = { places: places(stage) }
      stage.add({ do: 'freeze', ...where, direction: stage.chance.pick(['both', 'toServer', 'toClient']) })
      stage.add({ do: 'thaw', ...where }, period(stage))
    },
  },
  {
    weight: 10,
    add: (stage) => {
      const where = { places: places(stage) }
      stage.add({ do: 'cut', ...where })
      stage.add({ do: 'restore', ...where }, period(stage))
    },
  },
  { weight: 8, add: (stage) => stage.add({ do: 'reset', places: places(stage) }) },
  {
    weight: 6,
    add: (stage) => {
      const where = { places: places(stage) }
      stage.add({ do: 'slow', ...where, delayMs: stage.between(20, 120) })
      stage.add({ do: 'slow', ...where, delayMs: 0 }, period(stage))
    },
  },
  {
    weight: 12,
    add: (stage) => {
      const of = stage.chance.pick(['register', 'deregister', 'set_data', 'heartbeat', 'sweep'])
      stage.add({ do: 'lose answer', place: stage.chance.pick(PLACES), of })
    },
  },
  { weight: 8, add: withServer((stage) => stage.add({ do: 'terminate', places: places(stage) })) },
  { weight: 2, add: withServer((stage) => stage.add({ do: 'crash server' })) },
  {
    weight: 3,
    add: withServer((stage) => {
      const forMs = period(stage)
      // It takes a while until it accepts connections again.
      stage.serverAwayUntilMs = stage.nowMs + forMs + 1_000
      stage.add({ do: 'stop server', mode: stage.chance.pick(['fast', 'immediate', 'kill']) })
      stage.add({ do: 'start server' }, forMs)
    }),
  },
  {
    weight: 8,
    add: withServer(
      withMembership((stage, { target }) =>
        stage.add({ do: 'lock member', ...target, forMs: period(stage) }),
      ),
    ),
  },
  {
    weight: 5,
    add: withServer((stage) =>
      stage.add({
        do: 'lock cluster',
        cluster: stage.chance.pick(CLUSTERS),
        forMs: stage.between(100, 2_500),
      }),
    ),
  },
  {
    weight: 6,
    add: withServer(withMembership((stage, { target }) => stage.add({ do: 'remove', ...target }))),
  },
  {
    weight: 10,
    add: withServer(
      withMembership((stage, { target }) =>
        stage.add({
          do: 'repair',
          ...target,
          how: stage.chance.pick(['delete', 'change', 'put back', 'put back']),
          forMs: stage.between(0, 1_500),
        }),
      ),
    ),
  },
  {
    weight: 2,
    add: withServer((stage) => {
      const id = `00000000-0000-4000-8000-${String(stage.chance.below(2 ** 32)).padStart(12, '0')}`
      const cluster = stage.chance.pick(CLUSTERS)
      stage.add({ do: 'type in', cluster, id, forMs: stage.between(0, 1_000) })
    }),
  },
  {
    weight: 8,
    add: (stage) => {
      const of = stage.chance.pick(['register', 'register', 'deregister', 'heartbeat'])
      // Some are given up by their callers meanwhile, some are merely slow.
      const forMs = stage.between(200, 9_000)
      stage.add({ do: 'delay', place: stage.chance.pick(PLACES), of, forMs })
    },
  },
  {
    weight: 5,
    add: withServer((stage) => {
      const what = stage.chance.pick(REVOCABLE)
      const forMs = stage.between(100, 1_500)
      // What is granted while the server is away is not granted: the calm makes up for it.
      stage.add({ do: 'revoke', what })
      stage.add({ do: 'grant', what }, forMs)
    }),
  },
  {
    weight: 3,
    add: withServer((stage) => {
      stage.add({ do: 'rotate password' })
      stage.add({ do: 'restore password' }, stage.between(100, 1_500))
    }),
  },
  {
    weight: 5,
    add: withServer((stage) => stage.add({ do: 'garbage', cluster: stage.chance.pick(CLUSTERS) })),
  },
  { weight: 3, add: withServer((stage) => stage.add({ do: 'trim' })) },
]
