/** A schema with an owner and a role of each kind, granted what the command line prints. */
import pg from 'pg'
import { migrate } from 'pg-membership'
import { afterAll } from 'vitest'
import { pgMembership } from './command-line.js'
import { type AdminClient, adminClient, databaseUrl, newSchemaName, uniqueName } from './database.js'

const PASSWORD = 'p'

export type Role = 'owner' | 'member' | 'operator' | 'reader'

export interface Granted {
  readonly schema: string
  /** What the roles are called. */
  readonly names: Readonly<Record<Role, string>>
  urlOf(role: Role): string
  /** Its search path is the schema. */
  as(role: Role): Promise<AdminClient>
}

/** Everything is dropped after the file. */
export async function grantedSchema(): Promise<Granted> {
  const schema = newSchemaName()
  const names = {
    owner: uniqueName('owner'),
    member: uniqueName('member'),
    operator: uniqueName('operator'),
    reader: uniqueName('reader'),
  }
  const urlOf = (role: Role): string => {
    const url = new URL(databaseUrl())
    url.username = names[role]
    url.password = PASSWORD
    return url.href
  }
  const as = async (role: Role): Promise<AdminClient> => {
    const client = await adminClient(urlOf(role))
    await client.query(`set search_path = ${schema}`)
    return client
  }
  const grants = async (kinds: string): Promise<string> =>
    (await pgMembership(['sql', '--schema', schema, '--grants', kinds])).stdout

  await using admin = await adminClient()
  for (const name of Object.values(names)) {
    await admin.query(`create role ${pg.escapeIdentifier(name)} login password '${PASSWORD}'`)
  }
  afterAll(() => drop(schema, Object.values(names)))
  await admin.query(await grants(`owner=${names.owner}`))
  await migrate({ connection: urlOf('owner'), schema })
  await using owner = await as('owner')
  await owner.query(await grants(`member=${names.member},operator=${names.operator},reader=${names.reader}`))
  return { schema, names, urlOf, as }
}

async function drop(schema: string, roles: readonly string[]): Promise<void> {
  await using admin = await adminClient()
  await admin.query(`drop schema if exists ${schema} cascade`)
  for (const role of roles) await admin.query(`drop role ${pg.escapeIdentifier(role)}`)
}
