import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Member } from '../src/api/member.js'
import { type Cached, type Outcome, Refresh } from '../src/engine/refresh.js'
import { snapshotOf } from '../src/engine/snapshot.js'
import type { ChangesReading, MemberChange, MembersReading, Position, Reading } from '../src/engine/store.js'
import { lostOf } from '../src/engine/told.js'

interface Entry {
  readonly position: Position
  readonly change: MemberChange
}

/** A cluster that hands out few rows at a time, and that remembers what it was at each position, in each history. */
class Ledger {
  readonly states = new Map<string, readonly Member[]>()
  readonly #rows: number
  #members = new Map<string, Member>()
  #log: Entry[] = []
  #trimmed = 0
  #stamps = 0
  #lastToken = 0
  failing = false

  constructor(rows: number) {
    this.#rows = rows
  }

  get head(): Position {
    return this.#log.at(-1)?.position ?? { revision: 0, stamp: '' }
  }

  get cached(): Cached {
    return { position: this.head, snapshot: snapshotOf(this.head, this.#inOrder()) }
  }

  /** One transaction: each id joins, changes, or leaves, or leaves and joins again. */
  change(actions: readonly (readonly [string, Action])[], data = ''): void {
    const stamp = `stamp ${String(++this.#stamps)}`
    for (const [id, action] of actions) {
      const present = this.#members.get(id)
      if (present !== undefined && action === 'change')
        this.#note(stamp, 'updated', { ...present, data: stamp + data })
      else {
        if (present !== undefined) this.#note(stamp, 'left', { ...present, data: '' })
        if (present === undefined || action === 'replace') {
          const token = Math.max(this.#lastToken, this.head.revision) + 1
          this.#lastToken = token
          this.#note(stamp, 'joined', { id, token, data: '', registeredAt: '' })
        }
      }
    }
    this.states.set(JSON.stringify(this.head), this.#inOrder())
  }

  trim(): void {
    this.#trimmed = this.#log.length
  }

  /** To a server that lost the last transactions. */
  failOver(lost: number): void {
    const stamps = [...new Set(this.#log.map(({ position }) => position.stamp))]
    const kept = new Set(stamps.slice(0, Math.max(0, stamps.length - lost)))
    this.#log = this.#log.filter(({ position }) => kept.has(position.stamp))
    this.#trimmed = Math.min(this.#trimmed, this.#log.length)
    this.#members = new Map(
      (this.states.get(JSON.stringify(this.head)) ?? []).map((member) => [member.id, member]),
    )
  }

  async readChanges(since: Position, told: readonly Position[], upTo = Infinity): Promise<ChangesReading> {
    const reading = await this.#answer(since, told)
    const entries =
      reading.history === 'same' ? this.#log.slice(since.revision, upTo).slice(0, this.#rows) : []
    const whole = entries.length === 0 || since.revision >= this.#trimmed
    return {
      ...reading,
      history: whole ? reading.history : 'unknown',
      changes: whole ? entries.map(({ change }) => change) : [],
      reached: (whole ? entries.at(-1)?.position : undefined) ?? since,
    }
  }

  async readMembers(after: number, told: readonly Position[], since?: Position): Promise<MembersReading> {
    const reading = await this.#answer(since, told)
    const rest = this.#inOrder().filter(({ token }) => token > after)
    return {
      ...reading,
      members: rest.slice(0, this.#rows),
      complete: rest.length <= this.#rows,
      recovering: false,
    }
  }

  async #answer(since: Position | undefined, told: readonly Position[]): Promise<Reading> {
    await Promise.resolve()
    if (this.failing) throw new Error('away')
    return {
      ...this.head,
      sweepOverdue: false,
      lost: lostOf(told, this.head, (revision) =>
        revision > this.#trimmed ? this.#log[revision - 1]?.position.stamp : undefined,
      ),
      history: since === undefined ? 'unknown' : this.#historyAt(since),
    }
  }

  #historyAt({ revision, stamp }: Position): Reading['history'] {
    const { head } = this
    const then = revision === head.revision ? head : this.#log[revision - 1]?.position
    if (revision !== head.revision && revision <= this.#trimmed) return 'unknown'
    if (then === undefined || then.stamp === '' || stamp === '')
      return then?.stamp === stamp ? 'same' : 'unknown'
    return then.stamp === stamp ? 'same' : 'other'
  }

  #note(stamp: string, kind: MemberChange['kind'], member: Member): void {
    if (kind === 'left') this.#members.delete(member.id)
    else this.#members.set(member.id, member)
    this.#log.push({ position: { revision: this.#log.length + 1, stamp }, change: { kind, member } })
  }

  #inOrder(): Member[] {
    return [...this.#members.values()].sort((a, b) => a.token - b.token)
  }
}

type Action = 'change' | 'toggle' | 'replace'

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
