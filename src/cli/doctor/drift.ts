/** Whether the schema is what the migrations made. Not compared: defaults, what indexes hold, comments, grants. */
import type { Query } from '../../postgres/query.js'
import { domain, type Expected, expected, settingsOf, source } from './expected.js'
import { type Check, type Finding, listed, ok } from './finding.js'
import { checkWords, viewWords } from './sql-words.js'

interface Row {
  readonly object: string
  /** How it is, as the catalog says it; null: only that it is there counts. */
  readonly texts: readonly string[] | null
  readonly definer: boolean | null
  readonly off: boolean
}

interface Found {
  readonly object: string
  /** undefined: only that it is there counts. */
  readonly version: string | undefined
  readonly off: boolean
}

// A domain's constraint is taken apart from it: one that has none is found as well.
const FOUND = `
  with n as (select oid, nspname from pg_namespace where nspname = $1), r as (
    select c.oid, c.relname, c.relkind from pg_class c join n on n.oid = c.relnamespace
    where c.relname not like 'pgmembership\\_%'
  ), k as (
    select k.*, r.relname, (
      select string_agg(a.attname, ', ' order by i.n) from unnest(k.conkey) with ordinality i (attnum, n)
      join pg_attribute a on a.attrelid = k.conrelid and a.attnum = i.attnum
    ) as columns
    from pg_constraint k join r on r.oid = k.conrelid
  )
  select 'function ' || p.proname as object, array[p.prosrc] as texts, p.prosecdef as definer, false as off
  from pg_proc p join n on n.oid = p.pronamespace
  union all
  select 'the setting of function ' || p.proname, coalesce(p.proconfig, '{}'), null, false
  from pg_proc p join n on n.oid = p.pronamespace
  union all
  select 'operator ' || o.oprname, null, null, false from pg_operator o join n on n.oid = o.oprnamespace
  union all
  select 'table ' || relname, null, null, false from r where relkind = 'r'
  union all
  select 'view ' || relname, array[pg_get_viewdef(oid)], null, false from r where relkind = 'v'
  union all
  select 'index ' || relname, null, null, not i.indisvalid from r join pg_index i on i.indexrelid = r.oid
  union all
  select 'trigger ' || t.tgname, null, null, t.tgenabled not in ('O', 'A')
  from pg_trigger t join r on r.oid = t.tgrelid where not t.tgisinternal
  union all
  select 'column ' || r.relname || '.' || a.attname, array[
    case when t.typnamespace = n.oid then 'x.' || t.typname else format_type(a.atttypid, a.atttypmod) end
  ], null, false
  from r cross join n join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
  join pg_type t on t.oid = a.atttypid where r.relkind = 'r'
  union all
  select 'domain ' || t.typname, array[format_type(t.typbasetype, t.typtypmod), coalesce(
    (select string_agg(pg_get_constraintdef(c.oid), ' ' order by c.oid) from pg_constraint c where c.contypid = t.oid), ''
  )], null, false
  from pg_type t join n on n.oid = t.typnamespace where t.typtype = 'd'
  union all
  select case contype when 'p' then 'primary key' when 'u' then 'unique' else 'exclusion' end
    || ' (' || coalesce(columns, '') || ') of ' || relname, null, null, not convalidated
  from k where contype in ('p', 'u', 'x')
  union all
  select 'foreign key (' || columns || ') of ' || relname, array[pg_get_constraintdef(oid)], null, not convalidated
  from k where contype = 'f'
  union all
  select 'check of ' || relname, array[pg_get_constraintdef(oid)], null, not convalidated from k where contype = 'c'
  order by 1`

async function foundIn(query: Query, schema: string): Promise<readonly Found[]> {
  const rows = await query<Row>(FOUND, [schema])
  const path = `search_path=${schema.replaceAll('"', '')}, `
  return rows.map(({ object, texts, definer, off }) => {
    const [kind] = object.split(' ')
    const [text = '', more = ''] = texts ?? []
    const versions: Readonly<Record<string, () => string>> = {
      function: () => source(definer === true, text),
      the: () => settingsOf((texts ?? []).map((setting) => named(setting, path))),
      view: () => viewWords(text),
      foreign: () => viewWords(text),
      column: () => text,
      domain: () => domain(text, more),
      check: () => checkWords(text),
    }
    return { object, version: versions[kind ?? '']?.(), off }
  })
}

/** The migrations' text is that of a schema x. */
function named(setting: string, path: string): string {
  const plain = setting.replaceAll('"', '')
  return plain.startsWith(path) ? `search_path=x, ${plain.slice(path.length)}` : plain
}

const drift: Check = async ({ query, schema }) => {
  const found = await foundIn(query, schema)
  if (found.length === 0) return []
  const wanted = expected()
  const there = new Set(found.map(({ object }) => object))
  const differs = new Set([
    ...[...wanted.keys()].filter((object) => !there.has(object)).map((object) => `${object} is missing`),
    ...found.filter(({ off }) => off).map(({ object }) => `${object} is switched off or invalid`),
    ...found
      .filter(({ object, version }) => version !== undefined && wanted.get(object)?.has(version) === false)
      .map(({ object }) => `${object} was changed`),
  ])
  // A function that is another one has other settings, too.
  for (const object of differs) differs.delete(`the setting of ${object}`)
  const findings: Finding[] = []
  if (differs.size > 0) {
    findings.push({
      code: 'schema-drift',
      severity: 'alert',
      what: listed([...differs]),
      consequence: 'The schema is not what the migrations made: the promises of the library may not hold.',
      todo: 'Find out who changed it. npx pg-membership sql prints what it should be.',
    })
  }
  // Indexes and columns of others cost something, but change nothing.
  const strange = [...there].filter(
    (object) => !/^(index|column|the) /.test(object) && !wanted.has(object) && !isOfOthers(object, wanted),
  )
  const code = strange.filter((object) => /^(function|operator) /.test(object))
  if (code.length > 0) {
    findings.push({
      code: 'schema-code',
      severity: 'alert',
      what: `not of this package: ${listed(code)}`,
      consequence:
        'Functions of the schema look for names there: what fits better than PostgreSQL’s own is taken, and runs as the owner.',
      todo: `Find out who made them. Then: ${code
        .slice(0, 3)
        .map((object) => `drop ${object} (...)`)
        .join('; ')}. Keep your own functions in a schema of your own.`,
    })
  }
  const others = strange.filter((object) => !code.includes(object))
  if (others.length > 0) {
    findings.push({
      code: 'schema-extras',
      severity: 'note',
      what: `not of this package: ${listed(others)}`,
      consequence: 'A trigger runs at each change. Other objects harm nothing until the schema is dropped.',
      todo: 'Keep your own objects in a schema of your own.',
    })
  }
  return findings.length > 0 ? findings : [ok('schema-drift', 'the schema is what the migrations made')]
}

/** What belongs to a table of somebody else's: the table is named already. */
function isOfOthers(object: string, wanted: Expected): boolean {
  const [, table] = / of (\w+)$/.exec(object) ?? []
  return table !== undefined && !wanted.has(`table ${table}`)
}

export const driftChecks = { 'schema-drift': drift }
