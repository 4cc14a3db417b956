/** The schema's version, and what the role may do in it. */
import { grantsText } from '../../postgres/schema/files.js'
import { checkSchemaVersion } from '../../postgres/schema/version.js'
import { installed } from '../database.js'
import { type Check, listed, ok } from './finding.js'

const version: Check = async ({ query, schema }) => {
  const found = await installed(query, schema)
  try {
    checkSchemaVersion(found)
    return [ok('schema-version', `the schema has version ${String(found?.version)}`)]
  } catch (error) {
    const [what = '', todo = ''] = (error as Error).message.split(/\. (?=Run|Upgrade)/)
    return [
      {
        code: 'schema-version',
        severity: 'alert',
        what,
        consequence: 'Processes with this version of the package cannot start.',
        todo,
      },
    ]
  }
}

type Kind = 'member' | 'operator' | 'reader'

const privileges: Check = async ({ query, schema }) => {
  const objects = await query<{ name: string; may: boolean }>(
    `select p.proname as name, bool_and(has_function_privilege(p.oid, 'execute')) as may
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = $1 group by 1
    union all
    select c.relname, has_table_privilege(c.oid, 'select')
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relkind in ('r', 'v')`,
    [schema],
  )
  const [role] = await query<{ name: string }>('select current_user as name', [])
  const who = `role ${JSON.stringify(role?.name)}`
  const grant = (kind: string): string => `As the owner: npx pg-membership sql --grants ${kind}=ROLE`
  const asked = (kind: Kind): { readonly missing: string[]; readonly isNone: boolean } => {
    const wanted = [...grantsText(kind, 's', 'r').matchAll(/"s"\.(\w+)/g)].map(([, name]) => name)
    const there = objects.filter(({ name }) => wanted.includes(name))
    const missing = there.filter(({ may }) => !may).map(({ name }) => name)
    return { missing, isNone: missing.length === there.length }
  }
  const reader = asked('reader').missing
  if (reader.length > 0) {
    return [
      {
        code: 'privileges',
        severity: 'warning',
        what: `${who} may not use ${listed(reader)}`,
        consequence: 'A process with this role cannot read members.',
        todo: grant('reader'),
      },
    ]
  }
  const kinds = (['member', 'operator'] as const).map((kind) => ({ kind, ...asked(kind) }))
  const half = kinds.filter(({ missing, isNone }) => missing.length > 0 && !isNone)
  if (half.length > 0) {
    return half.map(({ kind, missing }) => ({
      code: 'privileges',
      severity: 'warning',
      what: `${who} may do a part of what the kind ${kind} does, but not call ${listed(missing)}`,
      consequence: 'The grants are older than the schema: calls of this role fail.',
      todo: grant(kind),
    }))
  }
  const able = kinds.filter(({ missing }) => missing.length === 0).map(({ kind }) => kind)
  if (able.length > 0) return [ok('privileges', `${who} may do all that the kind ${able.join(' and ')} does`)]
  return [
    {
      code: 'privileges',
      severity: 'note',
      what: `${who} may read, but not register, and not evict`,
      consequence: 'A process with this role cannot take part, and a person with it can remove nobody.',
      todo: `Nothing for an auditor. For an application: ${grant('member')}. For an operator: ${grant('operator')}`,
    },
  ]
}

/** The schema has a policy for each table, so that row level security, switched on by somebody, hides nothing. */
const rowSecurity: Check = async ({ query, schema }) => {
  const tables = await query<{ name: string }>(
    `select c.relname as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
    left join pg_policy p on p.polrelid = c.oid
    where n.nspname = $1 and c.relkind = 'r' and c.relrowsecurity
    group by 1 having not coalesce(bool_or(p.polname = 'by_grants_alone'), false)
      or bool_or(not p.polpermissive) order by 1`,
    [schema],
  )
  if (tables.length === 0) return [ok('row-security', 'row level security hides no row')]
  return [
    {
      code: 'row-security',
      severity: 'alert',
      what: `row level security hides rows of ${listed(tables.map(({ name }) => name))}`,
      consequence: 'Processes see only a part of the members, and take the others for gone.',
      todo: 'Switch it off for these tables, or drop the restrictive policy and restore by_grants_alone.',
    },
  ]
}

export const schemaChecks = { 'schema-version': version, privileges, 'row-security': rowSecurity }
