/**
 * A database in which a stranger's schema comes first in everybody's search_path, and shadows all of pg_catalog
 * (hostile-catalog.sql). Whoever runs anything of it is noted.
 */
import { readFileSync } from 'node:fs'
import { type AdminClient, adminClient, databaseUrl, uniqueName } from './database.js'

export const HOSTILE_ROLES = ['owner', 'member', 'operator', 'reader'] as const
export type HostileRole = (typeof HOSTILE_ROLES)[number]

export interface HostileDatabase extends AsyncDisposable {
  readonly nameOf: Readonly<Record<HostileRole, string>>
  /** As a role of which the stranger's schema is the path; without one, as the superuser, who has another path. */
  readonly url: (role?: HostileRole) => string
  /** For looking from outside. */
  readonly admin: AdminClient
  /** What was run of the stranger's, by whom and by which statement, since this was last called. */
  readonly ran: () => Promise<string[]>
}

const PASSWORD = 'p'

export async function startHostileDatabase(): Promise<HostileDatabase> {
  const database = uniqueName('hostile').replaceAll('-', '_')
  const nameOf = Object.fromEntries(
    HOSTILE_ROLES.map((role) => [role, uniqueName(role).replaceAll('-', '_')]),
  ) as Record<HostileRole, string>
  await using outside = await adminClient()
  for (const name of Object.values(nameOf)) {
    await outside.query(`create role ${name} login password '${PASSWORD}'`)
  }
  await outside.query(`create database ${database} owner ${nameOf.owner}`)
  const url = (role?: HostileRole): string => {
    const url = new URL(databaseUrl())
    url.pathname = database
    if (role !== undefined) Object.assign(url, { username: nameOf[role], password: PASSWORD })
    return url.href
  }
  const admin = await adminClient(url())
  await admin.query(readFileSync(new URL('hostile-catalog.sql', import.meta.url), 'utf8'))
  for (const name of Object.values(nameOf)) {
    await admin.query(`alter role ${name} in database ${database} set search_path = evil, pg_catalog`)
  }
  return {
    nameOf,
    url,
    admin,
    async ran() {
      const { rows } = await admin.query<{ line: string }>(
        `with taken as (delete from evil.seen returning *)
         select distinct format('%s ran as %s in: %s', what, caller,
             left(regexp_replace(statement, '\s+', ' ', 'g'), 200)) as line from taken order by 1`,
      )
      return rows.map(({ line }) => line)
    },
    async [Symbol.asyncDispose]() {
      await admin.end()
      await using outside = await adminClient()
      await outside.query(`drop database ${database} with (force)`)
      for (const name of Object.values(nameOf)) await outside.query(`drop role ${name}`)
    },
  }
}
