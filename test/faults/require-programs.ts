import { requirePrograms } from '../support/require-programs.js'

/** A test that cannot run fails; it is not skipped. */
export default function (): void {
  requirePrograms('psql', 'pgbouncer')
}
