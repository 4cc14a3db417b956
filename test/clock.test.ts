import { afterEach, beforeEach, expect, test, vi } from 'vitest'

const machine = vi.hoisted(() => ({ awakeMs: 0, bootMs: 0, asked: 0 }))

vi.mock('node:perf_hooks', () => ({ performance: { now: () => machine.awakeMs } }))
vi.mock('node:os', () => ({
  uptime: () => {
    machine.asked += 1
    return machine.bootMs / 1_000
  },
}))

let monotonicMs: () => number

beforeEach(async () => {
  // Fractions of a second do not add up the same from every beginning.
  Object.assign(machine, { awakeMs: 0, bootMs: 0, asked: 0 })
  vi.useFakeTimers({ toFake: ['Date'] })
  vi.resetModules()
  ;({ monotonicMs } = await import('../src/kit/clock.js'))
  monotonicMs()
})

afterEach(() => {
  vi.useRealTimers()
})

function awake(ms: number): void {
  machine.awakeMs += ms
  asleep(ms)
}

/** The machine is suspended; somebody may set its wall clock meanwhile. */
function asleep(ms: number, wallSetMs = 0): void {
  machine.bootMs += ms
  vi.setSystemTime(Date.now() + ms + wallSetMs)
}

test('promise 8: time in which the machine was suspended counts, at once', () => {
  const before = monotonicMs()
  awake(10)
  asleep(60_000)
  // A second of slack: the time since boot may be coarse.
  expect(monotonicMs() - before).toBe(59_010)
})

test('promise 8: also where the wall clock was set back by as much meanwhile, within 100 ms', () => {
  const before = monotonicMs()
  asleep(60_000, -60_000)
  awake(100)
  expect(monotonicMs() - before).toBe(59_100)
})

test('promise 8: what happens to the wall clock alone changes nothing', () => {
  const before = monotonicMs()
  for (const ms of [3_600_000, -7_200_000]) {
    vi.setSystemTime(Date.now() + ms)
    expect(monotonicMs()).toBe(before)
  }
})

test('promise 8: it never goes back, however the time since boot is rounded', () => {
  asleep(60_000)
  const before = monotonicMs()
  machine.bootMs -= 10
  awake(100)
  expect(monotonicMs()).toBeGreaterThan(before)
})

test('promise 11: the time since boot, which is dear, is asked for ten times a second at most', () => {
  const before = machine.asked
  for (let ms = 0; ms < 1_000; ms++) {
    awake(1)
    monotonicMs()
    monotonicMs()
  }
  expect(machine.asked - before).toBeLessThanOrEqual(10)
})
