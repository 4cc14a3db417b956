import type { ClientBase } from 'pg'
import pg from 'pg'

/** Everything that PostgreSQL knows of what is in a schema, one line each, without the schema's name. */
export async function catalogOf(client: ClientBase, schema: string): Promise<string[]> {
  // With nothing but pg_catalog in the path, names of the schema are always written out.
  await client.query('set search_path = pg_catalog')
  const { rows } = await client.query<{ line: string }>(CATALOG, [schema])
  await client.query('reset search_path')
  const names = [`${pg.escapeIdentifier(schema)}.`, `${schema}.`, `search_path TO '${schema}'`]
  return rows.map(({ line }) => names.reduce((text, name) => text.replaceAll(name, '<schema>.'), line))
}

/** What things of the schema name that is neither of the schema nor of PostgreSQL itself, as it was bound when they were made. */
export async function foreignNames(client: ClientBase, schema: string): Promise<string[]> {
  const { rows } = await client.query<{ line: string }>(FOREIGN_NAMES, [schema])
  return rows.map(({ line }) => line)
}

// PostgreSQL keeps no record of what depends on things that initdb made, as all of pg_catalog is.
const FOREIGN_NAMES = `
  with recursive ours (classid, objid) as (
    select 'pg_namespace'::regclass, oid from pg_namespace where nspname = $1
    union
    select d.classid, d.objid from pg_depend d join ours o on d.refclassid = o.classid and d.refobjid = o.objid
    where d.deptype in ('a', 'i') or d.refclassid = 'pg_namespace'::regclass
  )
  select distinct format('%s names %s', pg_describe_object(d.classid, d.objid, d.objsubid),
    pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)) as line
  from pg_depend d join ours o on d.classid = o.classid and d.objid = o.objid
  where d.refclassid <> 'pg_language'::regclass
    and not exists (select from ours r where r.classid = d.refclassid and r.objid = d.refobjid)
  order by 1`

const CATALOG = `
  with r as (
    select c.* from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1
  ), f as (
    select p.* from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = $1
  )
  select line from (
    select format('relation %s %s %s options %s acl %s comment %s', relname, relkind, relpersistence, reloptions,
      relacl, obj_description(r.oid, 'pg_class')) as line from r
    union all
    select format('column %s.%s #%s %s not null %s default %s generated %s%s storage %s acl %s comment %s', relname, attname,
      row_number() over (partition by r.oid order by attnum), format_type(atttypid, atttypmod), attnotnull,
      pg_get_expr(adbin, adrelid), attidentity, attgenerated, attstorage, attacl, col_description(r.oid, attnum))
    from r join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
    left join pg_attrdef d on d.adrelid = r.oid and d.adnum = a.attnum where relkind <> 'i'
    union all
    select format('constraint %s.%s %s', relname, conname, pg_get_constraintdef(c.oid))
    from r join pg_constraint c on c.conrelid = r.oid
    union all
    select format('index %s', pg_get_indexdef(r.oid)) from r where relkind = 'i'
    union all
    select format('view %s %s', relname, pg_get_viewdef(r.oid)) from r where relkind = 'v'
    union all
    select format('trigger %s enabled %s', pg_get_triggerdef(t.oid), tgenabled)
    from r join pg_trigger t on t.tgrelid = r.oid where not tgisinternal
    union all
    select format('function %s acl %s comment %s', pg_get_functiondef(f.oid), proacl, obj_description(f.oid, 'pg_proc')) from f
    union all
    select format('schema acl %s', nspacl) from pg_namespace where nspname = $1
    union all
    select format('type %s %s %s %s', t.typname, t.typtype, format_type(t.typbasetype, t.typtypmod),
      (select string_agg(pg_get_constraintdef(c.oid), ' ' order by c.conname) from pg_constraint c where c.contypid = t.oid))
    from pg_type t join pg_namespace n on n.oid = t.typnamespace where n.nspname = $1
    union all
    select format('policy %s.%s %s for %s to %s using %s with check %s', relname, polname, polpermissive, polcmd, polroles,
      pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)) from pg_policy join r on r.oid = polrelid
  ) catalog order by line collate "C"`
