/**
 * node scripts/repeat.js [runs = 20] [vitest arguments…]: runs the whole suite again and again, whatever
 * happens, with a line for each run and the whole output of each that failed. Exits with 1 if any did.
 */
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const [count = '20', ...rest] = process.argv.slice(2)
const runs = Number(count)
if (!Number.isInteger(runs) || runs < 1) throw new RangeError(`a number of runs, at least 1: ${count}`)

const directory = mkdtempSync(join(tmpdir(), 'pg-membership-repeat-'))
const report = join(directory, 'report.json')
const failed = []
try {
  for (let run = 1; run <= runs; run++) {
    rmSync(report, { force: true })
    const start = performance.now()
    const { code, output } = await vitest()
    const seconds = ((performance.now() - start) / 1000).toFixed(1)
    console.log(`run ${run}/${runs}: ${code === 0 ? 'passed' : 'FAILED'} in ${seconds} s (${counts()})`)
    if (code === 0) continue
    failed.push(run)
    console.log(output)
  }
} finally {
  rmSync(directory, { recursive: true, force: true })
}
console.log(failed.length === 0 ? `all ${runs} runs passed` : `failed: runs ${failed.join(', ')} of ${runs}`)
process.exitCode = failed.length === 0 ? 0 : 1

/** @returns {Promise<{ code: number | null, output: string }>} */
function vitest() {
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`]
  const child = spawn('vitest', ['run', ...reporters, ...rest], { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (/** @type {string} */ text) => (output += text))
  }
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code) => resolve({ code, output }))
  })
}

function counts() {
  try {
    /** @type {unknown} */
    const json = JSON.parse(readFileSync(report, 'utf8'))
    const { numPassedTests, numFailedTests, numPendingTests, numTodoTests } =
      /** @type {Record<string, number>} */ (json)
    const skipped = Number(numPendingTests) + Number(numTodoTests)
    return `${numPassedTests} passed, ${numFailedTests} failed, ${skipped} skipped`
  } catch {
    return 'no report'
  }
}
