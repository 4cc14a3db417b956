/** How each operation is carried out, and noted in the model. */
import { Broken } from './broken.js'
import { dataOf } from './model.js'
import type { Call, Doing, Operation } from './steps.js'
import type { World } from './world.js'

type Operations = { [K in Operation['do']]: (world: World, step: Doing<Operation, K>) => void }

const OPERATIONS: Operations = {
  start: (world, { process, place, role }) => world.inhabit(process, place, role),
  reopen: (world, { process, role }) => world.open(process, role),
  exit: (world, { process }) => {
    const { model, process: worker } = world.of(process)
    model.close()
    world.ask(process, 'close', undefined, () => {
      model.end()
      void worker.kill()
    })
  },
  join: call,
  leave: call,
  rejoin: call,
  try: call,
  set: call,
  write,
  lead: write,
  read: (world, { process }) => {
    const before = world.logOf(world.of(process).model.role.cluster).revision
    const askedMs = Date.now()
    world.ask(process, 'read', undefined, ({ revision, code }) => {
      if (code !== undefined && !world.troubles.refused(askedMs, Date.now())) {
        throw new Broken(12, `a fresh read of process ${process}: ${code}`)
      }
      if (revision === undefined || revision >= before) return
      throw new Broken(
        2,
        `a fresh read of process ${process} shows ${revision}, ${before} was committed before`,
      )
    })
  },
}

export function operate(world: World, step: Operation): void {
  const operation = OPERATIONS[step.do] as (world: World, step: Operation) => void
  operation(world, step)
}

export function isOperation(step: { readonly do: string }): step is Operation {
  return step.do in OPERATIONS
}

function call(world: World, step: Call): void {
  const membership = world.membership(step)
  membership.asked(step)
  const parameters = {
    n: membership.n,
    ...(step.do === 'try' && { forMs: step.forMs }),
    ...(step.do === 'set' && { data: dataOf(step) }),
  }
  const command = step.do as 'join'
  const askedMs = Date.now()
  world.ask(step.process, command, parameters, (outcome) =>
    membership.answered(step, outcome, world.troubles.refused(askedMs, Date.now())),
  )
}

function write(world: World, step: Doing<Operation, 'write'>): void {
  const { n, process } = world.membership(step)
  const url = world.urlOf(process.place, process.role)
  const onlyFirst = step.do === 'lead'
  world.ask(step.process, 'write', { n, forMs: step.forMs, url, onlyFirst }, (ended) =>
    world.history.count('checks', `fenced writes ${ended}`),
  )
}
