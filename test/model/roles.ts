/** The roles with which processes connect: a member takes part, a reader looks and sweeps. Both have a password. */
import { execFile } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import pg from 'pg'
import type { PostgresServer } from '../support/postgres-server.js'
import { until } from '../support/until.js'

const MEMBER = 'app_member'
const READER = 'app_reader'
export const PASSWORD = 'secret'

const MAIN = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

/** What readers need, members need as well. */
const FOR_BOTH = /sweep|^select/

/** With the grants that the command line prints. */
export async function createRoles(server: PostgresServer, admin: pg.Client): Promise<void> {
  for (const role of [MEMBER, READER]) await admin.query(`create role ${role} login`)
  await admin.query(passwordsOf(PASSWORD))
  const grants = ['sql', '--grants', `member=${MEMBER},reader=${READER}`]
  const { stdout } = await promisify(execFile)(process.execPath, [MAIN, ...grants])
  await admin.query(stdout)
  const rules = ['postgres 127.0.0.1/32 trust', 'all 127.0.0.1/32 password']
  writeFileSync(join(server.dataDirectory, 'pg_hba.conf'), rules.map((rule) => `host all ${rule}\n`).join(''))
  await admin.query('select pg_reload_conf()')
  await until(() => isRefused(urlOf(server.url, 'reader', 'wrong')), { message: 'passwords count' })
}

export function urlOf(url: string, role: 'member' | 'reader', password = PASSWORD): string {
  const username = role === 'member' ? MEMBER : READER
  return Object.assign(new URL(url), { username, password }).href
}

export function passwordsOf(password: string): string {
  return [MEMBER, READER].map((role) => `alter role ${role} password '${password}'`).join(';')
}

/** `what`: as in 'execute on function sweep'. */
export function permissionOf(verb: 'revoke' | 'grant', what: string): string {
  const roles = FOR_BOTH.test(what) ? `${MEMBER}, ${READER}` : MEMBER
  const named = what.replace(/\w+$/, 'pgmembership.$&')
  return `${verb} ${named} ${verb === 'revoke' ? 'from' : 'to'} ${roles}`
}

export const REVOCABLE: readonly string[] = [
  ...['register', 'heartbeat', 'set_data', 'deregister', 'sweep', 'sweep_idle', 'sweep_overdue'].map(
    (name) => `execute on function ${name}`,
  ),
  ...['members', 'events', 'clusters'].map((name) => `select on ${name}`),
]

/** Whatever was taken is given back. */
export const RESTORED = [...REVOCABLE.map((what) => permissionOf('grant', what)), passwordsOf(PASSWORD)].join(
  ';',
)

async function isRefused(connectionString: string): Promise<boolean> {
  const client = new pg.Client({ connectionString })
  client.on('error', () => undefined)
  try {
    await client.connect()
    return false
  } catch (error) {
    return (error as { code?: string }).code === '28P01'
  } finally {
    await client.end().catch(() => undefined)
  }
}
