import { spawnSync } from 'node:child_process'

/** What cannot run fails; it does not skip. */
export default function requirePsql(): void {
  const { status, error } = spawnSync('psql', ['--version'])
  if (status !== 0) throw new Error('these tests need psql on the PATH', { cause: error })
}
