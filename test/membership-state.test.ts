import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Member } from '../src/member.js'
import { MembershipState } from '../src/membership-state.js'

const seen = (token: number, data = ''): Member => ({ id: 'a', token, data, registeredAt: '2026-01-01' })

function registered(token = 5): MembershipState {
  const state = new MembershipState()
  state.want()
  state.registerSent()
  state.registered(token, state.version)
  return state
}

test('contract: what is wanted and what is there say what to do next', () => {
  const state = new MembershipState()
  expect(state.nextStep()).toBeUndefined()
  state.want()
  expect(state.nextStep()).toBe('register')
  state.registerSent()
  state.registered(5, state.version)
  expect(state.nextStep()).toBeUndefined()
  state.dataChanged()
  expect(state.nextStep()).toBe('set data')
  state.dataSet(5, state.version)
  expect(state.nextStep()).toBeUndefined()
  state.giveUp()
  expect(state.nextStep()).toBe('deregister')
  state.deregistered(5)
  expect(state.nextStep()).toBeUndefined()
  expect(state.isOut).toBe(true)
})

test('promise 1: a refresh shows what was known when it began, however much was heard since', () => {
  const state = registered()
  const begun = state.known
  state.dataChanged()
  state.dataSet(5, state.version)
  expect(state.isShown).toBe(false)
  expect(state.shown(seen(5), begun)).toBe('some')
  expect(state.isShown).toBe(true)
  expect(state.shownVersion).toBe(begun.version)
  state.shown(seen(5))
  expect(state.shownVersion).toBe(state.version)
  // An older refresh that ends later takes nothing back; one about another registration says nothing.
  expect(state.shown(seen(5), begun)).toBe('some')
  expect(state.shownVersion).toBe(state.version)
  expect(state.shown(seen(4), { ...begun, token: 4 })).toBe('nothing')
})

test('contract: what was given up goes, also when it is wanted again', () => {
  const state = registered()
  state.giveUp()
  state.want()
  expect(state.nextStep()).toBe('deregister')
  state.deregistered(5)
  expect(state.nextStep()).toBe('register')
  expect(state.floor).toBe(5)
})

test('contract: what was given up while it was being registered goes, also when it is wanted again', () => {
  const state = new MembershipState()
  state.want()
  state.registerSent()
  state.giveUp()
  state.want()
  state.registered(5, 0)
  expect(state.nextStep()).toBe('deregister')
  expect(state.keptToken).toBeUndefined()
  state.deregistered(5)
  state.registerSent()
  state.registered(6, 0)
  expect(state.nextStep()).toBeUndefined()
})

test('promise 1: a row that a retry has found may carry what the first attempt had sent', () => {
  const state = new MembershipState()
  state.want()
  state.registerSent()
  state.registerFailed('unanswered')
  state.dataChanged()
  state.registerSent()
  state.registered(5, state.version)
  expect(state.nextStep()).toBe('set data')
  state.dataSet(5, state.version)
  expect(state.nextStep()).toBeUndefined()
})

test('promise 7: data set for one registration says nothing about another', () => {
  const state = registered(5)
  state.dataChanged()
  state.dataSet(4, state.version)
  expect(state.nextStep()).toBe('set data')
  state.deregistered(4)
  expect(state.token).toBe(5)
  expect(state.lost(4)).toBe(false)
  expect(state.token).toBe(5)
})

test('contract: an attempt without an answer, no longer wanted, is looked for in the next snapshot', () => {
  const state = new MembershipState()
  state.want()
  state.registerSent()
  state.registerFailed('unanswered')
  expect(state.compare(seen(5), '')).toBe('as known') // the retry will find it
  state.giveUp()
  expect(state.isOut).toBe(false)
  state.shown(seen(5))
  expect(state.nextStep()).toBe('deregister')
  expect(state.token).toBe(5)
})

test('contract: an attempt without an answer stays in doubt when the next one is refused', () => {
  const state = new MembershipState()
  state.want()
  state.registerSent()
  state.registerFailed('unanswered')
  state.registerSent()
  state.registerFailed('nothing happened')
  state.giveUp()
  expect(state.isOut).toBe(false)
  state.shown(undefined)
  expect(state.isOutAndShown).toBe(true)
})

test('contract: a row of ours that we do not know is deregistered, and a lost one is asked about', () => {
  const state = registered(5)
  expect(state.compare(undefined, '')).toBe('as known') // not shown yet: an older snapshot
  state.shown(seen(5))
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
      const state = new MembershipState()
      let row: { token: number; version: number } | undefined
      let token = 0
      const step = (outcome: string): void => {
        const next = state.nextStep()
        if (next === 'register') {
          state.registerSent()
          if (outcome !== 'refuse' && (row === undefined || row.token <= state.floor)) {
            row = { token: ++token, version: state.version }
          }
          if (outcome === 'answer') state.registered(row?.token ?? 0, row?.version ?? -1)
          else state.registerFailed(outcome === 'refuse' ? 'nothing happened' : 'unanswered')
        } else if (next === 'deregister') {
          if (outcome !== 'refuse' && row?.token === state.token) row = undefined
          if (outcome === 'answer') state.deregistered(state.token ?? 0)
        } else if (next === 'set data') {
          if (outcome !== 'refuse' && row?.token === state.token)
            row = { ...row, version: state.version } as typeof row
          if (outcome === 'answer') state.dataSet(state.token ?? 0, state.version)
        }
      }
      const show = (): void => {
        const member = row === undefined ? undefined : seen(row.token, String(row.version))
        if (state.compare(member, String(state.version)) === 'missing') state.lost(state.token ?? 0)
        state.shown(member)
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
