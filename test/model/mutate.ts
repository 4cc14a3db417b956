/**
 * npm run test:mutations [-- words of some]: breaks a copy of the package in each way of mutations.ts, and
 * demands that the model test finds it, for a promise that it breaks. It prints a line for each, and exits
 * with 1 if one was not found.
 */
import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { mutated, type Mutation, MUTATIONS } from './mutations.js'

const ROOT = join(import.meta.dirname, '../..')
const PARTS = ['src', 'migrations', 'test', 'package.json', 'tsconfig.json', 'tsconfig.build.json']
const SEEDS = [1, 2]
const MINUTES = '2.5'

const words = process.argv.slice(2).join(' ')
const chosen = MUTATIONS.filter(({ breaks }) => breaks.includes(words))
for (const mutation of chosen) {
  const startedMs = performance.now()
  const found = SEEDS.map((seed) => [seed, findIn(mutation, seed)] as const).find(
    ([, said]) => said !== undefined,
  )
  const seconds = Math.round((performance.now() - startedMs) / 1_000)
  if (found === undefined) process.exitCode = 1
  const [seed, said] = found ?? []
  console.log(
    `${found ? `found with seed ${seed} in ${seconds} s` : 'NOT FOUND'}: ${mutation.breaks} -> ${said}`,
  )
}

/** What the model test said of a copy that is broken in this way; undefined when it was content. */
function findIn(mutation: Mutation, seed: number): string | undefined {
  const copy = mkdtempSync(join(tmpdir(), 'pg-membership-mutation-'))
  try {
    for (const part of PARTS) cpSync(join(ROOT, part), join(copy, part), { recursive: true })
    symlinkSync(join(ROOT, 'node_modules'), join(copy, 'node_modules'))
    const file = join(copy, mutation.file)
    writeFileSync(file, mutated(mutation, readFileSync(file, 'utf8')))
    // Types may complain of what is broken: what counts is what it does.
    run(copy, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json'])
    const soak = ['--import', 'tsx', 'test/model/soak.ts', '--minutes', MINUTES, '--seed', String(seed)]
    const { status, stdout } = run(copy, soak)
    const said = /^promise (\d+):.*$/m.exec(stdout)
    return status === 1 && mutation.promises.includes(Number(said?.[1])) ? said?.[0] : undefined
  } finally {
    rmSync(copy, { recursive: true })
  }
}

function run(cwd: string, args: readonly string[]) {
  return spawnSync(process.execPath, args, { cwd, encoding: 'utf8' })
}
