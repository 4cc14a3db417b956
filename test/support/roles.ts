/** A schema whose owner is no superuser, and roles with the grants that the documentation says they need. */
import { readdirSync } from 'node:fs'
import { basename, join } from 'node:path'
import pg from 'pg'
import { migrate } from 'pg-membership'
import { afterAll } from 'vitest'
import { pgMembership } from './command-line.js'
import { type AdminClient, adminClient, databaseUrl, newSchemaName, uniqueName } from './database.js'

export type Role = 'owner' | 'member' | 'operator' | 'reader' | 'nobody'
export type Kind = Exclude<Role, 'owner' | 'nobody'>

/** The kinds of roles that the package has grants for: a new one is tried by the tests that name none. */
export const KINDS = readdirSync(join(import.meta.dirname, '../../migrations/grants')).map((file) =>
  basename(file, '.sql'),
) as readonly Kind[]

export interface Roles {
  readonly schema: string
  readonly nameOf: Readonly<Record<Role, string>>
  readonly urlOf: (role: Role) => string
  /** A connection of its own, with the schema in its search_path. */
  readonly as: (role: Role) => Promise<AdminClient>
}

const PASSWORD = 'p'

/** All of it is dropped after the file. */
export async function startRoles(): Promise<Roles> {
  const schema = newSchemaName()
  const nameOf = Object.fromEntries(
    ['owner', ...KINDS, 'nobody'].map((role) => [role, uniqueName(role)]),
  ) as Record<Role, string>
  afterAll(async () => {
    await using admin = await adminClient()
    await admin.query(`drop schema if exists ${schema} cascade`)
    for (const role of Object.values(nameOf)) {
      await admin.query(`drop owned by ${pg.escapeIdentifier(role)}`)
      await admin.query(`drop role ${pg.escapeIdentifier(role)}`)
    }
  })
  const urlOf = (role: Role): string => {
    const url = new URL(databaseUrl())
    url.username = nameOf[role]
    url.password = PASSWORD
    return url.href
  }
  await using admin = await adminClient()
  for (const role of Object.values(nameOf)) {
    await admin.query(`create role ${pg.escapeIdentifier(role)} login password '${PASSWORD}'`)
  }
  await admin.query(await printed(schema, `owner=${nameOf.owner}`))
  await migrate({ connection: urlOf('owner'), schema })
  await using owner = await adminClient(urlOf('owner'))
  await owner.query(await printed(schema, KINDS.map((kind) => `${kind}=${nameOf[kind]}`).join()))
  return {
    schema,
    nameOf,
    urlOf,
    as: async (role) => {
      const client = await adminClient(urlOf(role))
      await client.query(`set search_path = ${schema}`)
      return client
    },
  }
}

async function printed(schema: string, grants: string): Promise<string> {
  return (await pgMembership(['sql', '--schema', schema, '--grants', grants])).stdout
}

/** The SQLSTATE that a statement ends with; undefined when it succeeds. */
export async function codeOf(
  client: pg.ClientBase,
  text: string,
  values: unknown[] = [],
): Promise<string | undefined> {
  return client.query(text, values).then(
    () => undefined,
    (error: unknown) => (error as { code?: string }).code,
  )
}
