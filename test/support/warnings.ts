/** Warnings of Node in this process, and in all that it starts. */
import { randomUUID } from 'node:crypto'
import { appendFileSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'

const file = join(tmpdir(), `pg-membership-warnings-${randomUUID()}`)

process.on('warning', (warning) => appendFileSync(file, `${warning.stack ?? String(warning)}\n`))

// Processes inherit it, and theirs do.
const recorder = new URL('record-warnings.js', import.meta.url)
recorder.searchParams.set('into', file)
process.env.NODE_OPTIONS = `${process.env.NODE_OPTIONS ?? ''} --import=${recorder.href}`

/** All since it was last called, each with where it came from; empty when there was none. */
export function takeWarnings(): string {
  try {
    const warnings = readFileSync(file, 'utf8')
    rmSync(file)
    return warnings
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return ''
    throw error
  }
}

/** Throws if there was one since takeWarnings() was last called. */
export async function expectNoWarnings(): Promise<void> {
  // A warning comes in the turn after what it is about.
  await setImmediate()
  const warnings = takeWarnings()
  if (warnings !== '') throw new Error(`Node has warned:\n${warnings}`)
}
