import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type Outcome, Refresh } from '../src/engine/refresh.js'
import { snapshotOf } from '../src/engine/snapshot.js'
import { type Action, Ledger } from './support/ledger.js'

const transaction = fc.array(
  fc.tuple(
    fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'),
    fc.constantFrom<Action>('change', 'toggle', 'replace'),
  ),
  { minLength: 1, maxLength: 4 },
)
type Incident = readonly (readonly [string, Action])[] | 'nothing' | 'trim' | 'fail'

const incident: fc.Arbitrary<Incident> = fc.oneof(
  { weight: 6, arbitrary: transaction },
  { weight: 3, arbitrary: fc.constant('nothing' as const) },
  { weight: 1, arbitrary: fc.constantFrom('trim' as const, 'fail' as const) },
)

async function outcomeOf(refresh: Refresh, before: () => void = () => undefined): Promise<Outcome> {
  for (let steps = 0; steps < 1_000; steps++) {
    before()
    const outcome = await refresh.step().catch(() => undefined)
    if (outcome !== undefined) return outcome
  }
  throw new Error('it does not come to an end')
}

function happen(ledger: Ledger, what: Incident | undefined): void {
  ledger.failing = what === 'fail'
  if (what === 'trim') ledger.trim()
  else if (typeof what === 'object') ledger.change(what)
}

test('promise 2: whatever happens between the statements of a refresh, it ends with what the cluster was at one moment', async () => {
  let [deltas, wholes] = [0, 0]
  await fc.assert(
    fc.asyncProperty(
      fc.array(transaction, { maxLength: 8 }),
      fc.array(incident, { maxLength: 8 }),
      fc.array(incident, { maxLength: 30 }),
      fc.boolean(),
      fc.integer({ min: 1, max: 3 }),
      async (past, missed, meanwhile, first, rows) => {
        const ledger = new Ledger(rows)
        for (const each of past) ledger.change(each)
        const cached = first ? undefined : ledger.cached
        for (const each of missed) happen(ledger, each)
        const incidents = [...meanwhile]
        const outcome = await outcomeOf(new Refresh(ledger, cached), () => happen(ledger, incidents.shift()))
        if (outcome.kind === 'same') {
          expect(cached).toBeDefined()
          return
        }
        if (outcome.kind === 'all') wholes += 1
        else deltas += 1
        const { snapshot, position, lost, misfit } = outcome
        expect({ lost, misfit }).toEqual({ lost: undefined, misfit: false })
        expect(snapshot.revision).toBe(position.revision)
        expect(snapshot.members).toEqual(
          position.revision === 0 ? [] : ledger.states.get(JSON.stringify(position)),
        )
        expect(snapshot.members.every(Object.isFrozen)).toBe(true)
      },
    ),
    { numRuns: 1_000 },
  )
  expect(deltas).toBeGreaterThan(50)
  expect(wholes).toBeGreaterThan(50)
})

test('promise 3: after a failover that lost commits in the middle of a refresh, no snapshot mixes two histories', async () => {
  let told = 0
  await fc.assert(
    fc.asyncProperty(
      fc.array(transaction, { minLength: 3, maxLength: 8 }),
      fc.array(transaction, { maxLength: 6 }),
      fc.array(transaction, { maxLength: 12 }),
      fc.nat(6),
      fc.nat(4),
      fc.boolean(),
      async (past, missed, meanwhile, when, lost, first) => {
        const ledger = new Ledger(2)
        for (const each of past) ledger.change(each)
        const cached = first ? undefined : ledger.cached
        for (const each of missed) ledger.change(each)
        let step = 0
        const outcome = await outcomeOf(new Refresh(ledger, cached), () => {
          if (step === when) ledger.failOver(lost)
          const next = meanwhile[step++]
          if (next !== undefined) ledger.change(next)
        })
        if (outcome.kind === 'same') return
        if (outcome.lost !== undefined) told += 1
        const { snapshot, position } = outcome
        expect(snapshot.members).toEqual(
          position.revision === 0 ? [] : ledger.states.get(JSON.stringify(position)),
        )
      },
    ),
    { numRuns: 1_000 },
  )
  expect(told).toBeGreaterThan(10)
})

test('promise 2: what fits nothing in the snapshot makes everything be read, once', async () => {
  const ledger = new Ledger(2)
  ledger.change([
    ['a', 'toggle'],
    ['b', 'toggle'],
    ['c', 'toggle'],
  ])
  const { position } = ledger.cached
  const wrong = { position, snapshot: snapshotOf(position, []) }
  ledger.change([['b', 'toggle']])
  const outcome = await outcomeOf(new Refresh(ledger, wrong))
  expect(outcome).toMatchObject({ kind: 'all', misfit: true, lost: undefined, position: ledger.head })
  if (outcome.kind === 'same') return
  expect(outcome.snapshot.members.map(({ id }) => id)).toEqual(['a', 'c'])
  expect(await outcomeOf(new Refresh(ledger, outcome))).toEqual({ kind: 'same' })
})

test.each([
  ['less than all members and some are read as they are', 2, 'changes'],
  ['more than all members and some are given up for those', 20, 'all'],
])('promise 2: changes that are %s', async (_what, changes, kind) => {
  const ledger = new Ledger(1)
  ledger.change([['a', 'toggle']])
  const { cached } = ledger
  for (let n = 0; n < changes; n++) ledger.change([['a', 'change']], 'x'.repeat(500_000))
  let steps = 0
  const outcome = await outcomeOf(new Refresh(ledger, cached), () => (steps += 1))
  expect(outcome).toMatchObject({ kind, position: ledger.head })
  expect(steps).toBeLessThan(10)
})
