/** The schema itself: whether it is what the migrations made, who may use it, and whether its rows can be read. */
import { quoteIdentifier } from '../../postgres/identifier.js'
import { migrationSql } from '../../postgres/schema/print.js'
import type { Query } from '../database.js'
import { type Check, type Finding, ok } from './finding.js'

interface Found {
  readonly kind: 'function' | 'index' | 'trigger' | 'view' | 'table'
  readonly name: string
  /** Of functions: what they do. */
  readonly body: string
  /** Of triggers: enabled; of indexes: valid. */
  readonly works: boolean
}

const OBJECTS = `
  select 'function' as kind, p.proname as name, p.prosrc as body, true as works from pg_proc p
  where p.pronamespace = $1::regnamespace
  union all
  select case c.relkind when 'i' then 'index' when 'v' then 'view' else 'table' end, c.relname, '',
    coalesce(i.indisvalid, true)
  from pg_class c left join pg_index i on i.indexrelid = c.oid
  where c.relnamespace = $1::regnamespace and c.relkind in ('i', 'v', 'r')
  union all
  select 'trigger', t.tgname, '', t.tgenabled in ('O', 'A') from pg_trigger t join pg_class c on c.oid = t.tgrelid
  where c.relnamespace = $1::regnamespace and not t.tgisinternal`

/** What the migrations make, by the words of their own SQL: the same on every version of PostgreSQL. */
function expected(schema: string): Found[] {
  const sql = migrationSql({ schema }).replaceAll(`${quoteIdentifier(schema)}.`, () => '$$.')
  const functions = sql.matchAll(/^create (?:or replace )?function \$\$\.(\w+)\(((?:(?!^create )[^])*)/gm)
  const others = sql.matchAll(
    /^create (?:unlogged |unique |constraint |or replace )*(table|view|index|trigger) (?:if not exists )?(?:\$\$\.)?"?(?!if )(\w+)/gm,
  )
  return [
    ...[...functions].map(([, name = '', rest = '']) =>
      found('function', name, /\bas \$\$([^]*?)\$\$/.exec(rest)?.[1]),
    ),
    ...[...others].map(([, kind = '', name = '']) => found(kind as Found['kind'], name)),
  ]
}

function found(kind: Found['kind'], name: string, body = ''): Found {
  return { kind, name, body, works: true }
}

const keyOf = ({ kind, name, body }: Found): string => `${kind} ${name} ${body.trim()}`

async function drift(query: Query, schema: string): Promise<readonly Finding[]> {
  const rows = await query<Found>(OBJECTS, [quoteIdentifier(schema)])
  const there = new Set(rows.map(keyOf))
  const made = expected(schema)
  const known = new Set(made.map(({ kind, name }) => `${kind} ${name}`))
  const changed = made
    .filter((object) => !there.has(keyOf(object)))
    .map(({ kind, name }) => `${kind} ${name}`)
  const broken = rows.filter(({ works, kind, name }) => !works && known.has(`${kind} ${name}`))
  const wrong = [
    ...new Set([...changed, ...broken.map(({ kind, name }) => `${kind} ${name} (switched off)`)]),
  ]
  if (wrong.length === 0) return [ok('drift', 'The schema is what the migrations made.')]
  return [
    {
      code: 'drift',
      severity: 'alert',
      what: `The schema is not what the migrations made: ${wrong.slice(0, 8).join(', ')}${wrong.length > 8 ? ` and ${String(wrong.length - 8)} more` : ''}.`,
      consequence:
        'What is promised does not hold: changes may be missing from the log, or members from snapshots.',
      todo: 'Find who changed it. Restore these objects from the SQL that `pg-membership sql` prints.',
    },
  ]
}

interface Privileges {
  readonly role: string
  readonly reads: boolean
  readonly registers: boolean
  readonly owns: boolean
}

async function privileges(query: Query, schema: string): Promise<readonly Finding[]> {
  const [row] = await query<Privileges>(
    `select current_user as role, has_table_privilege('$$.members', 'select') as reads,
      bool_or(p.proname = 'heartbeat' and has_function_privilege(p.oid, 'execute')) as registers,
      pg_has_role(n.nspowner, 'member') as owns
    from pg_namespace n join pg_proc p on p.pronamespace = n.oid
    where n.oid = $1::regnamespace group by n.nspowner`,
    [quoteIdentifier(schema)],
  )
  const can = [
    ...(row?.reads === true ? ['read'] : []),
    ...(row?.registers === true ? ['register members'] : []),
    ...(row?.owns === true ? ['change the schema'] : []),
  ]
  return [ok('privileges', `The role ${row?.role ?? '?'} may ${can.join(', ') || 'do nothing here'}.`)]
}

async function rowSecurity(query: Query, schema: string): Promise<readonly Finding[]> {
  const rows = await query<{ name: string }>(
    `select c.relname as name from pg_class c where c.relnamespace = $1::regnamespace and c.relkind = 'r'
      and c.relrowsecurity and not exists (
        select from pg_policy p where p.polrelid = c.oid and p.polname = 'by_grants_alone' and p.polroles = '{0}')
    order by 1`,
    [quoteIdentifier(schema)],
  )
  if (rows.length === 0) return [ok('row-security', 'Row level security hides nothing.')]
  return [
    {
      code: 'row-security',
      severity: 'alert',
      what: `Row level security is on, and the policy by_grants_alone is missing: ${rows.map(({ name }) => name).join(', ')}.`,
      consequence: 'Roles other than the owner see no rows, and get no error: their snapshots are empty.',
      todo: 'Create the policy again, as at the end of the SQL that `pg-membership sql` prints.',
    },
  ]
}

export function installationChecks(schema: string): readonly Check[] {
  return [
    { code: 'drift', run: (query) => drift(query, schema) },
    { code: 'privileges', run: (query) => privileges(query, schema) },
    { code: 'row-security', run: (query) => rowSecurity(query, schema) },
  ]
}
