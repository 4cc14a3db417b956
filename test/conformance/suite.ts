import { afterAll, beforeAll, describe, test } from 'vitest'
import { badInput } from './bad-input.js'
import { claims } from './claims.js'
import { closing } from './closing.js'
import { data } from './data.js'
import { feeding } from './feeding.js'
import { fencing } from './fencing.js'
import type { Harness } from './harness.js'
import { host } from './host.js'
import { leading } from './leading.js'
import { losing } from './losing.js'
import { nonces } from './nonces.js'
import { reading } from './reading.js'
import { registering } from './registering.js'
import { routing } from './routing.js'
import { typedData } from './typed.js'
import { watching } from './watching.js'
import { World } from './world.js'

/** Declares a test that runs in a world of its own. */
export type Declare = (sentence: string, check: (world: World) => Promise<void>) => void

const TEST_TIMEOUT_MS = 60_000

const parts: Readonly<Record<string, (check: Declare) => void>> = {
  reading,
  registering,
  data,
  watching,
  feeding,
  losing,
  fencing,
  leading,
  claims,
  nonces,
  closing,
  routing,
  'typed data': typedData,
  'bad input': badInput,
  'the host': host,
}

interface Check {
  readonly noun: string
  readonly sentence: string
  readonly check: (world: World) => Promise<void>
}

/** What every implementation of `Cluster` promises. */
export const CHECKS: readonly Check[] = Object.entries(parts).flatMap(([noun, part]) => {
  const checks: Check[] = []
  part((sentence, check) => checks.push({ noun, sentence, check }))
  return checks
})

export function conformance(title: string, start: () => Promise<Harness>, checks = CHECKS): void {
  describe(title, () => {
    let harness: Harness | undefined

    beforeAll(async () => {
      harness = await start()
    }, TEST_TIMEOUT_MS)

    afterAll(() => harness?.close(), TEST_TIMEOUT_MS)

    for (const { noun, sentence, check } of checks) {
      test(`${noun} > ${sentence}`, { timeout: TEST_TIMEOUT_MS }, async () => {
        if (harness === undefined) throw new Error('the harness has not started')
        const world = new World(harness)
        try {
          await check(world)
        } finally {
          await world.close()
        }
      })
    }
  })
}
