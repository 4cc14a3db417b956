import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const VITEST = fileURLToPath(new URL('../node_modules/.bin/vitest', import.meta.url))

/**
 * @typedef {object} Run
 * @property {boolean} passed
 * @property {string} summary
 * @property {string} output
 * @property {readonly { test: string, message: string }[]} failures The tests that failed, by file and name.
 */

/**
 * Runs vitest once, with the Node that comes first on the PATH of `env`, and under another command if one is given.
 *
 * @param {readonly string[]} args
 * @param {NodeJS.ProcessEnv} env
 * @param {readonly string[]} under
 * @returns {Promise<Run>}
 */
export async function runVitest(args, env = process.env, under = []) {
  const directory = mkdtempSync(join(tmpdir(), 'pg-membership-run-'))
  const report = join(directory, 'report.json')
  try {
    const start = performance.now()
    const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`]
    const { code, output } = await run([...under, VITEST, 'run', ...reporters, ...args], env)
    const seconds = ((performance.now() - start) / 1000).toFixed(1)
    const { counts, failures } = resultsIn(report)
    return { passed: code === 0, summary: `in ${seconds} s (${counts})`, output, failures }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/**
 * @param {readonly string[]} command
 * @param {NodeJS.ProcessEnv} env
 * @returns {Promise<{ code: number | null, output: string }>}
 */
function run([program = '', ...args], env) {
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

/**
 * @typedef {object} Report
 * @property {number} numPassedTests
 * @property {number} numFailedTests
 * @property {number} numPendingTests
 * @property {number} numTodoTests
 * @property {{ name: string, status: string, message: string,
 *   assertionResults: { status: string, fullName: string, failureMessages: string[] }[] }[]} testResults
 */

/**
 * @param {string} file
 * @returns {{ counts: string, failures: { test: string, message: string }[] }}
 */
function resultsIn(file) {
  try {
    /** @type {unknown} */
    const json = JSON.parse(readFileSync(file, 'utf8'))
    const report = /** @type {Report} */ (json)
    const skipped = report.numPendingTests + report.numTodoTests
    const counts = `${report.numPassedTests} passed, ${report.numFailedTests} failed, ${skipped} skipped`
    const failures = report.testResults.flatMap(({ name, status, message, assertionResults }) => {
      const path = relative('.', name)
      const tests = assertionResults
        .filter(({ status }) => status === 'failed')
        .map(({ fullName, failureMessages }) => ({
          test: `${path}: ${fullName}`,
          message: failureMessages.join('\n'),
        }))
      return status === 'failed' && tests.length === 0 ? [{ test: path, message }] : tests
    })
    return { counts, failures }
  } catch {
    return { counts: 'no report', failures: [] }
  }
}
