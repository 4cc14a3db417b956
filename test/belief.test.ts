import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Member } from '../src/api/member.js'
import { Belief } from '../src/engine/membership/belief.js'
import type { Position } from '../src/engine/store.js'

const at = (revision: number): Position => ({ revision, stamp: `stamp ${revision}` })
const seen = (token: number, data = ''): Member => ({ id: 'a', token, data, registeredAt: '2026-01-01' })

function registered(token = 5): Belief {
  const state = new Belief()
  state.want()
  state.registerSent()
  state.registered(token, state.version, at(token))
  return state
}

test('contract: what is wanted and what is there say what to do next', () => {
  const state = new Belief()
  expect(state.nextStep()).toBeUndefined()
  state.want()
  expect(state.nextStep()).toBe('register')
  state.registerSent()
  state.registered(5, state.version, at(5))
  expect(state.nextStep()).toBeUndefined()
  state.dataChanged()
  expect(state.nextStep()).toBe('set data')
  state.dataSet(5, state.version, at(5))
  expect(state.nextStep()).toBeUndefined()
  state.giveUp()
  expect(state.nextStep()).toBe('deregister')
  state.deregistered(5, at(5))
  expect(state.nextStep()).toBeUndefined()
  expect(state.isOut).toBe(true)
})

test('promise 1: a snapshot shows what it has of a registration, and no newer data', () => {
  const state = registered()
  const first = state.version
  expect(state.isShown).toBe(false)
  expect(state.compare(seen(5, 'first'), 'first')).toBe('as known')
  expect(state.isShown).toBe(true)
  expect(state.shownVersion).toBe(first)
  state.dataChanged()
  // Sent, and not answered yet.
  expect(state.compare(seen(5, 'first'), 'second')).toBe('as known')
  expect(state.shownVersion).toBe(first)
  state.dataSet(5, state.version, at(7))
  expect(state.at).toEqual(at(7))
  expect(state.compare(seen(5, 'second'), 'second')).toBe('as known')
  expect(state.shownVersion).toBe(state.version)
})

test('promise 3: in another history, the positions that answers told mean nothing', () => {
  const state = registered()
  expect(state.at).toEqual(at(5))
  state.historyLost()
  expect(state.at).toBeUndefined()
  expect(state.compare(undefined, '')).toBe('missing')
})

test('contract: what was given up goes, also when it is wanted again', () => {
  const state = registered()
  state.giveUp()
  state.want()
  expect(state.nextStep()).toBe('deregister')
  state.deregistered(5, at(5))
  expect(state.nextStep()).toBe('register')
  expect(state.floor).toBe(5)
})

test('contract: what was given up while it was being registered goes, also when it is wanted again', () => {
  const state = new Belief()
  state.want()
  state.registerSent()
  state.giveUp()
  state.want()
  state.registered(5, 0, at(5))
  expect(state.nextStep()).toBe('deregister')
  expect(state.keptToken).toBeUndefined()
  state.deregistered(5, at(5))
  state.registerSent()
  state.registered(6, 0, at(6))
  expect(state.nextStep()).toBeUndefined()
})

test('promise 1: a row that a retry has found may carry what the first attempt had sent', () => {
  const state = new Belief()
  state.want()
  state.registerSent()
  state.registerFailed('unanswered')
  state.dataChanged()
  state.registerSent()
  state.registered(5, state.version, at(5))
  expect(state.nextStep()).toBe('set data')
  state.dataSet(5, state.version, at(5))
  expect(state.nextStep()).toBeUndefined()
})

test('promise 7: data set for one registration says nothing about another', () => {
  const state = registered(5)
  state.dataChanged()
  state.dataSet(4, state.version, at(4))
  expect(state.nextStep()).toBe('set data')
  state.deregistered(4, at(4))
  expect(state.token).toBe(5)
  expect(state.lost(4, at(4))).toBe(false)
  expect(state.token).toBe(5)
})

test('contract: an attempt without an answer, no longer wanted, is looked for', () => {
  const state = new Belief()
  state.want()
  state.registerSent()
  state.registerFailed('unanswered')
  expect(state.compare(seen(5), '')).toBe('as known') // the retry will find it
  expect(state.doubtfulAttempt).toBeUndefined()
  state.giveUp()
  expect(state.isOut).toBe(false)
  // A refresh that began before a later attempt tells nothing about it.
  state.lookedFor(undefined, (state.doubtfulAttempt ?? 0) - 1)
  expect(state.isOut).toBe(false)
  state.lookedFor(seen(5), state.doubtfulAttempt ?? -1)
  expect(state.nextStep()).toBe('deregister')
  expect(state.token).toBe(5)
})

test('contract: an attempt without an answer stays in doubt when the next one is refused', () => {
  const state = new Belief()
  state.want()
  state.registerSent()
  state.registerFailed('unanswered')
  state.registerSent()
  state.registerFailed('nothing happened')
  state.giveUp()
  expect(state.isOut).toBe(false)
  state.lookedFor(undefined, state.doubtfulAttempt ?? -1)
  expect(state.isOutAndShown).toBe(true)
})

test('contract: a row of ours that we do not know is deregistered, and a lost one is asked about', () => {
  const state = registered(5)
  state.compare(seen(5), '')
  expect(state.compare(undefined, '')).toBe('missing')
  expect(state.compare(seen(4), '')).toBe('as known') // an older snapshot
  expect(state.compare(seen(5, 'other'), '')).toBe('changed')
  expect(state.nextStep()).toBe('set data')
  expect(state.compare(seen(7), '')).toBe('superseded')
  expect(state.nextStep()).toBe('deregister')
  expect(state.floor).toBe(7)
})

test('contract: whatever happens, doing the next steps ends in what is wanted', () => {
  const calls = fc.array(fc.constantFrom('want', 'give up', 'data', 'lose', 'answer', 'refuse', 'no answer'))
  fc.assert(
    fc.property(calls, (calls) => {
      const state = new Belief()
      let row: { token: number; version: number } | undefined
      let token = 0
      const step = (outcome: string): void => {
        const next = state.nextStep()
        if (next === 'register') {
          state.registerSent()
          if (outcome !== 'refuse' && (row === undefined || row.token <= state.floor)) {
            row = { token: ++token, version: state.version }
          }
          if (outcome === 'answer') state.registered(row?.token ?? 0, row?.version ?? -1, at(token))
          else state.registerFailed(outcome === 'refuse' ? 'nothing happened' : 'unanswered')
        } else if (next === 'deregister') {
          if (outcome !== 'refuse' && row?.token === state.token) row = undefined
          if (outcome === 'answer') state.deregistered(state.token ?? 0, at(token))
        } else if (next === 'set data') {
          if (outcome !== 'refuse' && row?.token === state.token)
            row = { ...row, version: state.version } as typeof row
          if (outcome === 'answer') state.dataSet(state.token ?? 0, state.version, at(token))
        }
      }
      const show = (): void => {
        const member = row === undefined ? undefined : seen(row.token, String(row.version))
        if (state.compare(member, String(state.version)) === 'missing')
          state.lost(state.token ?? 0, at(token))
        if (state.doubtfulAttempt !== undefined) state.lookedFor(member, state.doubtfulAttempt)
      }
      for (const call of calls) {
        if (call === 'want') state.want()
        else if (call === 'give up') state.giveUp()
        else if (call === 'data') state.dataChanged()
        else if (call === 'lose') row = undefined
        else step(call)
      }
      for (let n = 0; n < 6; n++) {
        step('answer')
        show()
      }
      expect(state.nextStep()).toBeUndefined()
      expect(row).toEqual(state.wanted ? { token: state.token, version: state.version } : undefined)
    }),
    { numRuns: 2_000 },
  )
})
