import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const VITEST = fileURLToPath(new URL('../node_modules/.bin/vitest', import.meta.url))

/**
 * Runs vitest once, with the Node that comes first on the PATH of `env`.
 *
 * @param {readonly string[]} args
 * @param {NodeJS.ProcessEnv} env
 * @returns {Promise<{ passed: boolean, summary: string, output: string }>}
 */
export async function runVitest(args, env = process.env) {
  const directory = mkdtempSync(join(tmpdir(), 'pg-membership-run-'))
  const report = join(directory, 'report.json')
  try {
    const start = performance.now()
    const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`]
    const { code, output } = await run(VITEST, ['run', ...reporters, ...args], env)
    const seconds = ((performance.now() - start) / 1000).toFixed(1)
    return { passed: code === 0, summary: `in ${seconds} s (${counts(report)})`, output }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/**
 * @param {string} program
 * @param {readonly string[]} args
 * @param {NodeJS.ProcessEnv} env
 * @returns {Promise<{ code: number | null, output: string }>}
 */
function run(program, args, env) {
  const child = spawn(program, args, { env, stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (/** @type {string} */ text) => (output += text))
  }
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code) => resolve({ code, output }))
  })
}

/** @param {string} report */
function counts(report) {
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
