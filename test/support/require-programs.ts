/** The programs that npm does not bring. A test that cannot run fails; it is not skipped. */
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import type { TestProject } from 'vitest/node'

/** Each with the package of Debian and Ubuntu that holds it. */
const PACKAGES = {
  psql: 'postgresql-client',
  pgbouncer: 'pgbouncer',
  etcd: 'etcd-server',
  patroni: 'patroni python3-etcd',
  haproxy: 'haproxy',
  chromium: 'chromium',
} as const

type Program = keyof typeof PACKAGES

/** Where it is; what only an administrator usually calls need not be on the PATH. */
export function pathOf(program: Program): string {
  const directories = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin']
  const found = directories.map((directory) => join(directory, program)).find(isExecutable)
  if (found === undefined) {
    throw new Error(`These tests need ${program}: on Debian and Ubuntu, apt-get install ${PACKAGES[program]}`)
  }
  return found
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/** What each suite needs, by the name of its project. */
const NEEDED: Readonly<Record<string, readonly Program[]>> = {
  faults: ['psql', 'pgbouncer'],
  ha: ['etcd', 'patroni', 'haproxy'],
  web: ['chromium'],
}

/** Before a suite: throws for the first program that is missing. */
export default function requirePrograms({ name }: Pick<TestProject, 'name'>): void {
  const programs = NEEDED[name]
  if (programs === undefined) throw new Error(`NEEDED in require-programs.ts has no suite ${name}`)
  for (const program of programs) pathOf(program)
}
