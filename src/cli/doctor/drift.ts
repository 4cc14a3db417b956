/**
 * Whether the schema is what the migrations made. The migrations' own text is the measure, so it holds on every
 * version of PostgreSQL. Types of columns, constraints and grants are not compared.
 */
import { migrationFiles, migrationText } from '../../postgres/schema/files.js'
import { type Check, type Finding, listed, ok } from './finding.js'

/** One line per object: its kind and name, and for a function the rights that it runs with and its text. */
function expected(): Map<string, Set<string>> {
  const text = migrationFiles()
    .map((file) => migrationText(file, 'up', 'x'))
    .join('\n')
  const objects = new Map<string, Set<string>>()
  const add = (object: string, version = ''): void => {
    objects.set(object, (objects.get(object) ?? new Set()).add(version))
  }
  for (const chunk of text.split(/^create (?:or replace )?function "x"\./m).slice(1)) {
    const [, name = '', head = '', body] = /^(\w+)(\(.*?)(?:as \$\$(.*?)\$\$|^return )/ms.exec(chunk) ?? []
    add(`function ${name}`, source(/\bsecurity definer\b/.test(head), body))
  }
  for (const [, kind = '', name = ''] of text.matchAll(/^create (?:unlogged )?(table|view) "x"\.(\w+)/gm))
    add(`${kind} ${name}`)
  for (const [, kind = '', name = ''] of text.matchAll(
    /^create (?:unique |constraint )?(index|trigger) (\w+)/gm,
  ))
    add(`${kind} ${name}`)
  for (const [, name = '', body = ''] of text.matchAll(
    /^create (?:unlogged )?table "x"\.(\w+) \(\n(.*?)^\)/gms,
  ))
    for (const [, column = ''] of body.matchAll(/^ {2}(?!unique|primary|check|foreign|constraint)(\w+) /gm))
      add(`column ${name}.${column}`)
  return objects
}

/** A function without a body in dollars is stored as a parsed tree: its text is not compared. */
function source(definer: boolean, body: string | undefined): string {
  return `${String(definer)} ${body ?? ''}`
}

interface Found {
  readonly object: string
  readonly definer: boolean | null
  readonly body: string | null
  readonly off: boolean
}

const FOUND = `
  with r as (
    select c.oid, c.relname, c.relkind from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = $1
  )
  select 'function ' || p.proname as object, p.prosecdef as definer, p.prosrc as body, false as off
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = $1
  union all
  select case relkind when 'r' then 'table ' else 'view ' end || relname, null, null, false
  from r where relkind in ('r', 'v')
  union all
  select 'index ' || relname, null, null, not i.indisvalid from r join pg_index i on i.indexrelid = r.oid
  union all
  select 'trigger ' || t.tgname, null, null, t.tgenabled not in ('O', 'A')
  from pg_trigger t join r on r.oid = t.tgrelid where not t.tgisinternal
  union all
  select 'column ' || r.relname || '.' || a.attname, null, null, false
  from r join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped where r.relkind = 'r'
  order by 1`

const drift: Check = async ({ query, schema }) => {
  const found = await query<Found>(FOUND, [schema])
  if (found.length === 0) return []
  const wanted = expected()
  const there = new Set(found.map(({ object }) => object))
  const differs = [
    ...[...wanted.keys()].filter((object) => !there.has(object)).map((object) => `${object} is missing`),
    ...found.filter(({ off }) => off).map(({ object }) => `${object} is switched off or invalid`),
    ...found
      .filter(({ object, definer, body }) => {
        const sources = definer === null ? undefined : wanted.get(object)
        return sources && !sources.has(source(definer === true, body ?? ''))
      })
      .map(({ object }) => `${object} was changed`),
  ]
  const findings: Finding[] = []
  if (differs.length > 0) {
    findings.push({
      code: 'schema-drift',
      severity: 'alert',
      what: listed(differs),
      consequence: 'The schema is not what the migrations made: the promises of the library may not hold.',
      todo: 'Find out who changed it. npx pg-membership sql prints what it should be.',
    })
  }
  // Kysely's tables record the migrations. Indexes made by constraints have no statement of their own.
  const strange = [...there].filter(
    (object) => /^(table|view|function|trigger) (?!pgmembership_)/.test(object) && !wanted.has(object),
  )
  if (strange.length > 0) {
    findings.push({
      code: 'schema-extras',
      severity: 'note',
      what: `not of this package: ${listed(strange)}`,
      consequence: 'A trigger runs at each change. Other objects harm nothing until the schema is dropped.',
      todo: 'Keep your own objects in a schema of your own.',
    })
  }
  return findings.length > 0 ? findings : [ok('schema-drift', 'the schema is what the migrations made')]
}

export const driftChecks = { 'schema-drift': drift }
