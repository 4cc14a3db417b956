/**
 * node scripts/repeat.js [--runs 20] [--worlds idle] [vitest arguments…]: runs the suite, or the files that are named,
 * again and again, so many times in each world, whatever happens. Prints a line for each run, and the whole output of
 * each that failed. Ends with a table of the tests that failed: in which world, how often, and with which seeds. Exits
 * with 1 if there are any. `--worlds all`, or some of WORLDS, as in `--worlds busy,shuffled`.
 */
import { spawn } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { runVitest } from './vitest.js'

/**
 * @typedef {object} World
 * @property {string} is
 * @property {NodeJS.ProcessEnv} [env]
 * @property {readonly string[]} [under] The command that starts vitest.
 * @property {number} [loops] Processes that do nothing but keep a processor busy.
 * @property {boolean} [shuffled]
 */

/** @type {Readonly<Record<string, World>>} */
const WORLDS = {
  idle: { is: 'nothing else at work' },
  busy: { is: 'two busy loops beside it', loops: 2 },
  'one-core': { is: 'on one processor', under: ['taskset', '-c', '0'] },
  memory: { is: "PostgreSQL's data in memory: a fast disk", env: { TMPDIR: '/dev/shm' } },
  'slow-disk': { is: 'each flush of the WAL takes 10 ms longer', env: { TEST_FLUSH_DELAY_MS: '10' } },
  shuffled: { is: 'files and tests in random order', shuffled: true },
}

const { runs, worlds, rest } = parsed(process.argv.slice(2))
/** @type {Map<string, { test: string, world: string, failures: number, seeds: Set<string> }>} */
const failed = new Map()
let total = 0
process.once('SIGINT', () => process.exit(finish()))
for (const world of worlds) {
  console.log(`${world}: ${WORLDS[world]?.is ?? ''}`)
  for (let run = 1; run <= runs; run++) await once(world, run)
}
process.exitCode = finish()

/**
 * @param {string} name
 * @param {number} run
 */
async function once(name, run) {
  const { env, under = [], loops = 0, shuffled } = /** @type {World} */ (WORLDS[name])
  const seed = String(randomInt(2 ** 31))
  const order = shuffled
    ? ['--sequence.shuffle.files', '--sequence.shuffle.tests', `--sequence.seed=${seed}`]
    : []
  const beside = Array.from({ length: loops }, keepBusy)
  const { passed, summary, output, failures } = await runVitest(
    [...order, ...rest],
    { ...process.env, ...env },
    under,
  )
  for (const loop of beside) loop.kill('SIGKILL')
  total += 1
  console.log(
    `${name} ${run}/${runs}: ${passed ? 'passed' : 'FAILED'} ${summary}${shuffled ? `, seed ${seed}` : ''}`,
  )
  if (passed) return
  console.log(output)
  // A file that cannot be loaded has no test that failed, and an error between tests has no file.
  for (const { test, message } of failures.length > 0
    ? failures
    : [{ test: '(the run itself)', message: output }]) {
    const key = JSON.stringify([test, name])
    const entry = failed.get(key) ?? { test, world: name, failures: 0, seeds: new Set() }
    failed.set(key, entry)
    entry.failures += 1
    if (shuffled) entry.seeds.add(seed)
    for (const [, drawn] of message.matchAll(/\bseed\W{1,3}(\d+)/gi)) if (drawn) entry.seeds.add(drawn)
  }
}

/** Ends with this process, also if that is killed. */
function keepBusy() {
  return spawn(process.execPath, ['-e', 'const parent = process.ppid; while (process.ppid === parent);'], {
    stdio: 'ignore',
  })
}

/** Returns the exit code. */
function finish() {
  const many = `${total} runs, ${worlds.join(', ')}`
  if (failed.size === 0) {
    console.log(`all passed: ${many}`)
    return 0
  }
  console.log(`failed (${many}):`)
  for (const { test, world, failures, seeds } of [...failed.values()].toSorted(
    (a, b) => b.failures - a.failures,
  )) {
    console.log(`| ${test} | ${world} | ${failures} of ${runs} | ${[...seeds].join(', ')} |`)
  }
  return 1
}

/** @param {readonly string[]} args */
function parsed(args) {
  const rest = [...args]
  /** @param {string} name @param {string} fallback */
  const take = (name, fallback) => {
    const at = rest.indexOf(name)
    return at < 0 ? fallback : (rest.splice(at, 2)[1] ?? '')
  }
  const count = take('--runs', '20')
  const named = take('--worlds', 'idle')
  const runs = Number(count)
  if (!Number.isInteger(runs) || runs < 1) throw new RangeError(`--runs must be at least 1: ${count}`)
  const worlds = named === 'all' ? Object.keys(WORLDS) : named.split(',')
  for (const world of worlds) {
    if (!(world in WORLDS)) {
      throw new RangeError(`--worlds must be some of ${Object.keys(WORLDS).join(', ')}, or all: ${world}`)
    }
  }
  return { runs, worlds, rest }
}
