/** What roles may do in the schema beyond what the grants of their kinds give, and who may read the keys. */
import { quoteIdentifier } from '../../postgres/identifier.js'
import { grantsText } from '../../postgres/schema/files.js'
import { type Check, listed, ok } from './finding.js'

interface Right {
  /** null: everybody. */
  readonly grantee: string | null
  readonly right: string
  /** As in 'function'; with its name, to be compared with the grants, and to be written in a statement. */
  readonly kind: string
  readonly name: string
  readonly quoted: string
  readonly grantable: boolean
}

const RIGHTS = `
  select g.rolname as grantee, lower(a.privilege_type) as right, o.kind, o.name, o.quoted, a.is_grantable as grantable
  from pg_namespace n cross join lateral (
    select 'schema' as kind, 'schema' as name, quote_ident(n.nspname) as quoted, n.nspowner as owner, n.nspacl as acl
    union all
    select case relkind when 'S' then 'sequence' else 'table' end, relname, oid::regclass::text, relowner, relacl
    from pg_class where relnamespace = n.oid and relkind in ('r', 'v', 'm', 'p', 'f', 'S')
    union all
    select 'table', relname, format('%s (%s)', relname, attname), relowner, attacl
    from pg_attribute a join pg_class c on c.oid = a.attrelid where relnamespace = n.oid and attacl is not null
    union all
    select 'function', proname, oid::regprocedure::text, proowner, coalesce(proacl, acldefault('f', proowner))
    from pg_proc where pronamespace = n.oid
    union all
    select 'type', typname, oid::regtype::text, typowner, coalesce(typacl, acldefault('T', typowner))
    from pg_type where typnamespace = n.oid and typtype = 'd'
  ) o cross join lateral aclexplode(o.acl) a left join pg_roles g on g.oid = a.grantee
  where n.nspname = $1 and a.grantee <> o.owner and not coalesce(g.rolsuper, false)
    -- What the administrator of the database gave the schema that each database has.
    and not (n.nspname = 'public' and o.kind = 'schema' and a.privilege_type = 'USAGE')
  order by 1, 3, 4, 2`

/** As 'select members', of what any kind is granted. */
function grantedToKinds(): ReadonlySet<string> {
  const granted = new Set(['usage schema'])
  for (const kind of ['reader', 'member', 'operator'] as const) {
    const text = grantsText(kind, 's', 'r').replaceAll(/^--.*$/gm, '')
    for (const [, right = '', objects = ''] of text.matchAll(/grant (\w+) on (.*?) to /gs))
      for (const [, name = ''] of objects.matchAll(/"s"\.(\w+)/g)) granted.add(`${right} ${name}`)
  }
  return granted
}

const WRITERS = `
  select r.rolname as name from pg_roles r
  where not r.rolsuper and r.rolname !~ '^pg_' and pg_has_role(r.oid, 'pg_write_all_data', 'member') order by 1`

const rights: Check = async ({ query, schema }) => {
  const granted = grantedToKinds()
  const found = (await query<Right>(RIGHTS, [schema])).filter(
    ({ grantee, right, name, grantable }) =>
      grantee === null || grantable || !granted.has(`${right} ${name}`),
  )
  const writers = await query<{ name: string }>(WRITERS, [])
  if (found.length === 0 && writers.length === 0)
    return [ok('rights', 'no role may do more in the schema than its kind')]
  const who = (grantee: string | null): string => (grantee === null ? 'public' : quoteIdentifier(grantee))
  const beyond = found.map(
    ({ grantee, right, name, grantable }) =>
      `${who(grantee)} has ${right} on ${name}${grantable ? ' with grant option' : ''}`,
  )
  const all = writers.map(({ name }) => `${who(name)} writes every table (pg_write_all_data)`)
  const revokes = found.map(
    ({ grantee, right, kind, quoted }) =>
      `revoke ${/\((\w+)\)$/.test(quoted) && kind === 'table' ? 'all' : right} on ${kind} ${quoted.replace(/ \(\w+\)$/, '')} from ${who(grantee)} cascade`,
  )
  const todo = [
    ...new Set(revokes),
    ...writers.map(({ name }) => `revoke pg_write_all_data from ${who(name)}`),
  ]
  return [
    {
      code: 'rights',
      severity: 'alert',
      what: listed([...beyond, ...all]),
      consequence:
        'These roles may do what no kind of role may: write past the functions, read the keys, or give rights on.',
      todo: `As the owner: ${todo.slice(0, 5).join('; ')}${todo.length > 5 ? '; and so on' : ''}. Then grant again what is needed: npx pg-membership sql --grants`,
    },
  ]
}

const KEYS = `
  select r.rolname as name, pg_has_role(r.oid, 'pg_read_all_data', 'member') as "readsAll"
  from pg_namespace n join pg_class k on k.relnamespace = n.oid and k.relname = 'members_channels' cross join pg_roles r
  where n.nspname = $1 and not r.rolsuper and r.rolname !~ '^pg_' and not pg_has_role(r.oid, k.relowner, 'member') and (
    has_table_privilege(r.oid, k.oid, 'select') or has_any_column_privilege(r.oid, k.oid, 'select')
    or pg_has_role(r.oid, 'pg_read_all_data', 'member')
    -- Who may ask for the key, but not take part, is no member.
    or exists (
      select from pg_proc p where p.pronamespace = n.oid and p.proname = 'members_channel' and has_function_privilege(r.oid, p.oid, 'execute')
    ) and not exists (
      select from pg_proc p where p.pronamespace = n.oid and p.proname = 'register' and has_function_privilege(r.oid, p.oid, 'execute')
    )
  ) order by 1`

const keys: Check = async ({ query, schema }) => {
  const rows = await query<{ name: string; readsAll: boolean }>(KEYS, [schema])
  if (rows.length === 0)
    return [ok('keys', 'nobody but members and the owner may read the keys of announcements')]
  const readers = rows.filter(({ readsAll }) => readsAll).map(({ name }) => quoteIdentifier(name))
  const revoke =
    readers.length > 0 ? `revoke pg_read_all_data from ${readers.join(', ')}` : 'see the finding rights'
  return [
    {
      code: 'keys',
      severity: 'warning',
      what: `the keys of announcements may be read by ${listed(
        rows.map(({ name, readsAll }) => `${quoteIdentifier(name)}${readsAll ? ' (pg_read_all_data)' : ''}`),
      )}`,
      consequence:
        'Who has a key can make up changes, which members show until their next heartbeat, and hears what they carry.',
      todo: `Leave it if you trust these roles as you trust members. Otherwise: ${revoke}; then, as the owner, for each cluster: select renew_members_channel(name)`,
    },
  ]
}

/** The owner alone may look. */
const copied: Check = async ({ query, schema }) => {
  const [role] = await query<{ may: boolean }>(
    `select bool_and(has_table_privilege(c.oid, 'select')) as may
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = 'members_channels'`,
    [schema],
  )
  const [maker] = await query<{ may: boolean }>(
    `select bool_and(has_function_privilege(p.oid, 'execute')) as may
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = $1 and p.proname = 'database_identity'`,
    [schema],
  )
  if (!role?.may || !maker?.may) return []
  const rows = await query<{ cluster: string; place: string }>(
    `select c.cluster, c.made_in as place from $$.members_channels c where c.made_in <> $$.database_identity() order by 1`,
    [],
  )
  if (rows.length === 0) return [ok('copied', 'the keys of announcements were made in this database')]
  return [
    {
      code: 'copied',
      severity: 'warning',
      what: `made in another database (${rows[0]?.place ?? ''}): the keys of ${listed(rows.map(({ cluster }) => JSON.stringify(cluster)))}`,
      consequence:
        'If this is a copy, whoever reads it has the keys of the original, where members believe what is signed with them.',
      todo: 'As the owner: select renew_members_channel(name) from clusters. docs/guides/operations.md says what else a copy needs.',
    },
  ]
}

export const rightsChecks = { rights, keys, copied }
