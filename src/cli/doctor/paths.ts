/** Where the roles that use the schema look for names. */
import { quoteIdentifier } from '../../postgres/identifier.js'
import { type Check, type Finding, listed, ok } from './finding.js'

interface PathOfRole {
  readonly role: string
  /** null: nobody has set it for the role or the database. */
  readonly path: string | null
}

/** Roles with a right on the schema, and its owner. A setting for the role in this database comes before the others. */
const PATHS = `
  select r.rolname as role, (
    select substr(c.setting, 13) from pg_db_role_setting s cross join unnest(s.setconfig) c (setting)
    where c.setting like 'search\\_path=%' and s.setrole in (r.oid, 0) and s.setdatabase in (d.oid, 0)
    order by s.setrole = 0, s.setdatabase = 0 limit 1
  ) as path
  from pg_namespace n join pg_database d on d.datname = current_database() cross join pg_roles r
  where n.nspname = $1 and not r.rolsuper and r.rolname !~ '^pg_'
    and (r.oid = n.nspowner or exists (select from aclexplode(n.nspacl) a where a.grantee = r.oid))
  order by 1`

/** Who may create in each schema, besides superusers; null: everybody. */
const CREATORS = `
  select n.nspname as schema, g.rolname as creator
  from pg_namespace n cross join aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
  left join pg_roles g on g.oid = a.grantee
  where a.privilege_type = 'CREATE' and not coalesce(g.rolsuper, false)
    and (g.rolname is null or g.rolname not in ('pg_database_owner'))
    and coalesce(g.oid <> (select d.datdba from pg_database d where d.datname = current_database()), true)`

const path: Check = async ({ query, schema }) => {
  const roles = await query<PathOfRole>(PATHS, [schema])
  const rows = await query<{ schema: string; creator: string | null }>(CREATORS, [])
  const [owner] = await query<{ name: string }>(
    'select pg_get_userbyid(nspowner) as name from pg_namespace where nspname = $1',
    [schema],
  )
  const openTo = (place: string, role: string): boolean =>
    rows.some((row) => row.schema === place && row.creator !== role && row.creator !== owner?.name)
  const before: string[] = []
  const open: string[] = []
  const [badly, widely] = [new Set<string>(), new Set<string>()]
  for (const { role, path } of roles) {
    const places = namesIn(path ?? '"$user", public').map((name) => (name === '$user' ? role : name))
    const first = places.indexOf('pg_catalog')
    for (const [n, place] of places.entries()) {
      if (n < first && place !== 'pg_temp') {
        before.push(`${JSON.stringify(place)} of role ${JSON.stringify(role)}`)
        badly.add(role)
      } else if (openTo(place, role)) {
        open.push(`${JSON.stringify(place)} of role ${JSON.stringify(role)}`)
        widely.add(place)
      }
    }
  }
  const findings: Finding[] = []
  if (before.length > 0) {
    findings.push({
      code: 'search-path',
      severity: 'alert',
      what: `in a search_path before pg_catalog: ${listed(before)}`,
      consequence: 'Whatever is made there is taken before PostgreSQL’s own functions, operators and types.',
      todo: [...badly].map((role) => `alter role ${quoteIdentifier(role)} reset search_path`).join('; '),
    })
  }
  if (open.length > 0) {
    findings.push({
      code: 'search-path',
      severity: 'warning',
      what: `in a search_path, and others may create in it: ${listed(open)}`,
      consequence:
        'A function or operator made there that fits better than PostgreSQL’s own is taken, and runs with the rights of the role: in statements of the application, and of people in psql.',
      todo: [...widely]
        .map((place) => {
          const creators = rows.filter((row) => row.schema === place).map(({ creator }) => creator)
          const from = creators.map((name) => (name === null ? 'public' : quoteIdentifier(name))).join(', ')
          return `revoke create on schema ${quoteIdentifier(place)} from ${from}`
        })
        .join('; '),
    })
  }
  return findings.length > 0
    ? findings
    : [ok('search-path', 'nobody else creates where roles look for names')]
}

/** As SET reads it: names apart by commas, in lower case unless they are quoted. */
function namesIn(setting: string): string[] {
  return [...setting.matchAll(/"((?:[^"]|"")*)"|([^\s,"]+)/g)].map(
    ([, quoted, plain = '']) => quoted?.replaceAll('""', '"') ?? plain.toLowerCase(),
  )
}

export const pathChecks = { 'search-path': path }
