/**
 * Whose schema it is. Code in a schema runs as whoever calls it, and what that code calls is looked for in the schema.
 * So nobody installs into, or asks, a schema in which another role could have put something. This is found out from
 * PostgreSQL's own catalogs, before anything of the schema is executed.
 */
import { SchemaError } from '../../api/errors.js'
import { quoteIdentifier } from '../identifier.js'

export interface Place {
  readonly owner: string
  readonly role: string
  readonly isOwn: boolean
  /** Whether this role could make the schema, too. */
  readonly mayInstall: boolean
  /** Whether the role is a superuser, and the owner is not. */
  readonly isAbove: boolean
  /** Roles other than the owner and superusers that may create objects in it. */
  readonly creators: readonly string[]
  /** Descriptions of the objects in it that are not its owner's: the first few. */
  readonly strangers: readonly string[]
}

/** One row with `place` as JSON text, or none. To be asked where search_path is pg_catalog. */
export const PLACE_QUESTION = `
  select json_build_object(
    'owner', o.rolname, 'role', current_user, 'isOwn', o.rolname = current_user,
    'mayInstall', has_database_privilege(d.oid, 'create'),
    'isAbove', not o.rolsuper and (select r.rolsuper from pg_roles r where r.rolname = current_user),
    'creators', array(
      select distinct coalesce(g.rolname, 'public')
      from aclexplode(n.nspacl) a left join pg_roles g on g.oid = a.grantee
      where a.privilege_type = 'CREATE' and a.grantee not in (n.nspowner, o.oid) and not coalesce(g.rolsuper, false)
      order by 1
    ),
    'strangers', array(
      select pg_describe_object(s.kind, s.oid, 0) || ' of role ' || pg_get_userbyid(s.owner)
      from (
        select 'pg_class'::regclass as kind, oid, relowner as owner from pg_class
        where relnamespace = n.oid and relkind not in ('i', 'I')
        union all select 'pg_proc'::regclass, oid, proowner from pg_proc where pronamespace = n.oid
        union all select 'pg_type'::regclass, oid, typowner from pg_type
        where typnamespace = n.oid and typrelid = 0 and typelem = 0
        union all select 'pg_operator'::regclass, oid, oprowner from pg_operator where oprnamespace = n.oid
      ) s
      where s.owner <> o.oid order by 1 limit 3
    )
  )::text as place
  from pg_namespace n join pg_database d on d.datname = current_database()
  join pg_roles w on w.oid = n.nspowner
  -- Who owns the database has the rights of this role.
  join pg_roles o on o.oid = case when w.rolname = 'pg_database_owner' then d.datdba else w.oid end
  where n.nspname = $1`

export function placeOf(row: { readonly place: string } | undefined): Place | undefined {
  return row && (JSON.parse(row.place) as Place)
}

/** Throws unless this role may execute what is in the schema; to install, it must be the owner. */
export function checkPlace(place: Place, schema: string, purpose: 'ask' | 'install'): void {
  const problem =
    problemsOf(place, schema)[0] ??
    above(place, schema) ??
    (purpose === 'install' ? notOwn(place, schema) : undefined)
  if (problem !== undefined) throw new SchemaError(`${problem.what}. ${problem.todo}`)
}

export interface Problem {
  readonly what: string
  readonly todo: string
}

/** Why nobody should execute anything of the schema. */
export function problemsOf({ owner, creators, strangers }: Place, schema: string): Problem[] {
  const problems: Problem[] = []
  const [name, whose] = [JSON.stringify(schema), JSON.stringify(owner)]
  if (creators.length > 0) {
    const everybody = creators.includes('public')
    const who = everybody
      ? 'everybody'
      : `role ${creators.map((creator) => JSON.stringify(creator)).join(', ')}`
    const revoked = creators.map((creator) => (creator === 'public' ? creator : quoteIdentifier(creator)))
    problems.push({
      what: `Schema ${name} is open: ${who} may create objects in it`,
      todo: `Choose another schema, or as its owner ${whose}: revoke create on schema ${quoteIdentifier(schema)} from ${revoked.join(', ')}`,
    })
  }
  if (strangers.length > 0) {
    problems.push({
      what: `Schema ${name} is owned by role ${whose}, and has objects that are not: ${strangers.join(', ')}`,
      todo: 'Choose another schema, or drop what is not yours, or give it to the owner (alter ... owner to ...)',
    })
  }
  return problems
}

/** Why a superuser should not execute anything of the schema. */
export function above({ owner, role, isAbove }: Place, schema: string): Problem | undefined {
  if (!isAbove) return undefined
  return {
    what: `Schema ${JSON.stringify(schema)} is owned by role ${JSON.stringify(owner)}: its functions would run with the rights of the superuser ${JSON.stringify(role)}`,
    todo: 'Connect as that role, or as one that has the grants of docs/roles.md',
  }
}

function notOwn({ owner, role, isOwn }: Place, schema: string): Problem | undefined {
  if (isOwn) return undefined
  const [whose, ours] = [quoteIdentifier(owner), quoteIdentifier(role)]
  return {
    what: `Schema ${JSON.stringify(schema)} is owned by role ${JSON.stringify(owner)}, not by ${JSON.stringify(role)}`,
    todo:
      `Choose another schema; or migrate as its owner (for a member of that role: alter role ${ours} set role ${whose}); ` +
      `or, if nothing is in it, as an administrator: alter schema ${quoteIdentifier(schema)} owner to ${ours}`,
  }
}
