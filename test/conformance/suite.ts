import { afterAll, beforeAll, describe, test } from 'vitest'
import { badInput } from './bad-input.js'
import { closing } from './closing.js'
import { data } from './data.js'
import { fencing } from './fencing.js'
import type { Harness } from './harness.js'
import { host } from './host.js'
import { losing } from './losing.js'
import { reading } from './reading.js'
import { registering } from './registering.js'
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
  losing,
  fencing,
  closing,
  'bad input': badInput,
  'the host': host,
}

/** What every implementation of `Cluster` promises. */
export function conformance(title: string, start: () => Promise<Harness>): void {
  describe(title, () => {
    let harness: Harness

    beforeAll(async () => {
      harness = await start()
    }, TEST_TIMEOUT_MS)

    afterAll(() => harness.close(), TEST_TIMEOUT_MS)

    const declare: Declare = (sentence, check) => {
      test(sentence, { timeout: TEST_TIMEOUT_MS }, async () => {
        const world = new World(harness)
        try {
          await check(world)
        } finally {
          await world.close()
        }
      })
    }

    for (const [noun, part] of Object.entries(parts)) {
      describe(noun, () => {
        part(declare)
      })
    }
  })
}
