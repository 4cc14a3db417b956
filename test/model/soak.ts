/**
 * npm run soak -- [--minutes 30] [--seed N]: the model test for as long as you like. It prints one line a minute, and
 * a summary at the end. If a promise is broken, it prints what happened before, and exits with 1.
 */
import { parseArgs } from 'node:util'
import { run } from './run.js'

const { values } = parseArgs({ options: { minutes: { type: 'string' }, seed: { type: 'string' } } })
const minutes = Number(values.minutes ?? 30)
const seed = Number(values.seed ?? Math.floor(Math.random() * 2 ** 32))
if (!(minutes > 0)) throw new RangeError(`--minutes must be a number above 0, not ${values.minutes}`)
if (!Number.isInteger(seed)) throw new RangeError(`--seed must be an integer, not ${values.seed}`)

const interrupted = new AbortController()
process.once('SIGINT', () => interrupted.abort())
process.once('SIGTERM', () => interrupted.abort())

const startedMs = performance.now()
const passed = (): string => ((performance.now() - startedMs) / 60_000).toFixed(1)
let toldMinutes = 0
console.log(`seed ${seed}, ${minutes} minutes`)
try {
  const history = await run({
    seed,
    minutes,
    signal: interrupted.signal,
    onRound: ({ number }, history) => {
      if (performance.now() - startedMs < (toldMinutes + 1) * 60_000) return
      toldMinutes = Math.floor((performance.now() - startedMs) / 60_000)
      const totals = (['operations', 'faults', 'checks'] as const).map(
        (kind) => `${history.total(kind)} ${kind}`,
      )
      console.log(`${passed()} min: ${number} rounds, ${totals.join(', ')}`)
    },
  })
  const ended = interrupted.signal.aborted ? 'interrupted' : 'all promises kept'
  console.log(`seed ${seed}, ${passed()} minutes: ${ended}\n${history.summary}`)
} catch (error) {
  console.log(
    `seed ${seed}, ${passed()} minutes: BROKEN\n${error instanceof Error ? error.message : String(error)}`,
  )
  process.exitCode = 1
}
