/**
 * node scripts/repeat.js [runs = 20] [vitest arguments…]: runs the whole suite again and again, whatever
 * happens, with a line for each run and the whole output of each that failed. Exits with 1 if any did.
 */
import { runVitest } from './vitest.js'

const [count = '20', ...rest] = process.argv.slice(2)
const runs = Number(count)
if (!Number.isInteger(runs) || runs < 1) throw new RangeError(`a number of runs, at least 1: ${count}`)

const failed = []
for (let run = 1; run <= runs; run++) {
  const { passed, summary, output } = await runVitest(rest)
  console.log(`run ${run}/${runs}: ${passed ? 'passed' : 'FAILED'} ${summary}`)
  if (passed) continue
  failed.push(run)
  console.log(output)
}
console.log(failed.length === 0 ? `all ${runs} runs passed` : `failed: runs ${failed.join(', ')} of ${runs}`)
process.exitCode = failed.length === 0 ? 0 : 1
