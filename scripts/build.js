/** Builds dist from src and web. Does nothing if it is newer than all that it is made of: every test command calls this. */
import { spawnSync } from 'node:child_process'
import { readdirSync, rmSync, statSync, utimesSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { buildPage } from './build-page.js'

const MADE_OF = [
  'src',
  'web',
  'scripts',
  'package.json',
  'tsconfig.json',
  'tsconfig.build.json',
  'node_modules/.package-lock.json',
]
/** The last file that a build writes. Its time is when the build began. */
const STAMP = 'dist/web/page/LICENSES.txt'

/** @param {string} path */
const at = (path) => fileURLToPath(new URL(`../${path}`, import.meta.url))

/** When the file was changed; of a folder, the last time that it or anything in it was. 0: it is not there.
 * @param {string} path
 * @returns {number} */
function changedMs(path) {
  const found = statSync(at(path), { throwIfNoEntry: false })
  if (found === undefined) return 0
  // A folder's own time tells of files that were removed.
  const inside = found.isDirectory() ? readdirSync(at(path)).map((name) => changedMs(`${path}/${name}`)) : []
  return Math.max(found.mtimeMs, ...inside)
}

const startedMs = Date.now()
if (changedMs(STAMP) <= Math.max(...MADE_OF.map(changedMs))) {
  // A file that no longer has a source must not be published.
  rmSync(at('dist'), { recursive: true, force: true })
  const { status } = spawnSync(
    process.execPath,
    [at('node_modules/typescript/bin/tsc'), '-p', at('tsconfig.build.json')],
    { stdio: 'inherit' },
  )
  if (status !== 0) process.exit(status ?? 1)
  await buildPage()
  utimesSync(at(STAMP), startedMs / 1000, startedMs / 1000)
}
