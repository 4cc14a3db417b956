/**
 * The programs that tests run in processes of their own, each in one file: a process then starts with half of the
 * processor time, and a run starts hundreds.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const PROGRAMS = [
  'worker-main.js',
  '../model/process-main.js',
  '../layers/leader-main.js',
  '../layers/taker-main.js',
]

/** For the processes of tests: vitest gives them its environment. Returns a function that removes the bundles. */
export async function makeBundles(): Promise<() => void> {
  // Another project has made them.
  if (process.env.TEST_BUNDLES !== undefined) return () => undefined
  const directory = mkdtempSync(fileURLToPath(new URL('../../.bundles-', import.meta.url)))
  await build({
    entryPoints: PROGRAMS.map((program) => fileURLToPath(new URL(program, import.meta.url))),
    outdir: directory,
    entryNames: '[name]',
    outExtension: { '.js': '.mjs' },
    bundle: true,
    platform: 'node',
    format: 'esm',
    // pg-listen needs it, and it loads a file beside itself by a path that no bundler sees.
    external: ['pg-format'],
    // pg is CommonJS.
    banner: {
      js: `import { createRequire } from 'node:module'; const require = createRequire(import.meta.url)`,
    },
    logLevel: 'error',
  })
  process.env.TEST_BUNDLES = directory
  return () => rmSync(directory, { recursive: true, force: true })
}

/** Where no bundles were made: the program itself. */
export function bundleOf(program: URL): string {
  const path = fileURLToPath(program)
  const directory = process.env.TEST_BUNDLES
  return directory === undefined ? path : join(directory, basename(path).replace(/\.js$/, '.mjs'))
}
