/** Whose the schema is, and what its objects are bound to: from the catalogs alone. */
import type { Query } from '../../postgres/query.js'
import { above, type Place, PLACE_QUESTION, placeOf, problemsOf } from '../../postgres/schema/ownership.js'
import { type Check, type Finding, listed, ok, type Patient } from './finding.js'

async function placeIn({ query, schema }: Patient): Promise<Place | undefined> {
  return placeOf((await query<{ place: string }>(PLACE_QUESTION, [schema]))[0])
}

/** Asks nothing of a schema in which a stranger could have put something: it would run as whoever runs the doctor. */
export async function trusted(patient: Patient): Promise<Query> {
  const { query, schema } = patient
  const place = await placeIn(patient)
  if (place === undefined || (problemsOf(place, schema).length === 0 && !above(place, schema))) return query
  return (text, values) => {
    if (text.includes('$$.')) throw new Error('the schema is not asked: see schema-owner')
    return query(text, values)
  }
}

const owner: Check = async (patient) => {
  const place = await placeIn(patient)
  if (place === undefined) return []
  const { schema } = patient
  const findings: Finding[] = problemsOf(place, schema).map((problem) => ({
    ...problem,
    code: 'schema-owner',
    severity: 'alert',
    consequence:
      'What others put there can run with the rights of whoever uses the schema, and of its owner.',
  }))
  const own = above(place, schema)
  if (own !== undefined) {
    findings.push({
      ...own,
      code: 'schema-owner',
      severity: 'note',
      consequence: 'So nothing of it is executed, and much cannot be checked.',
    })
  }
  if (findings.length > 0) return findings
  return [ok('schema-owner', `the schema and all in it is of role ${JSON.stringify(place.owner)} alone`)]
}

// Triggers are left out: they are compared with the migrations by name (schema-extras).
const BOUND = `
  select pg_describe_object(d.classid, d.objid, d.objsubid) || ' uses ' || pg_describe_object(d.refclassid, d.refobjid, 0) as bound
  from pg_namespace n cross join lateral (
    select 'pg_proc'::regclass as classid, oid from pg_proc where pronamespace = n.oid
    union all select 'pg_type'::regclass, oid from pg_type where typnamespace = n.oid
    union all select 'pg_class'::regclass, oid from pg_class where relnamespace = n.oid
    union all select 'pg_constraint'::regclass, oid from pg_constraint where connamespace = n.oid
    union all select 'pg_rewrite'::regclass, w.oid from pg_rewrite w join pg_class c on c.oid = w.ev_class where c.relnamespace = n.oid
    union all select 'pg_attrdef'::regclass, a.oid from pg_attrdef a join pg_class c on c.oid = a.adrelid where c.relnamespace = n.oid
    union all select 'pg_policy'::regclass, p.oid from pg_policy p join pg_class c on c.oid = p.polrelid where c.relnamespace = n.oid
  ) o
  join pg_depend d on d.classid = o.classid and d.objid = o.oid and d.deptype = 'n'
  cross join lateral pg_identify_object(d.refclassid, d.refobjid, 0) f
  where n.nspname = $1 and f.schema not in (quote_ident(n.nspname), 'pg_catalog') order by 1`

const bound: Check = async ({ query, schema }) => {
  const rows = await query<{ bound: string }>(BOUND, [schema])
  if (rows.length === 0) return [ok('schema-bound', 'what is in the schema uses PostgreSQL and itself alone')]
  return [
    {
      code: 'schema-bound',
      severity: 'alert',
      what: listed(rows.map((row) => row.bound)),
      consequence:
        'Whoever owns what is used has it run with the rights of the schema’s owner. It stood in the path of who installed the schema.',
      todo: 'Make these objects again as npx pg-membership sql prints them, with: set search_path = pg_catalog.',
    },
  ]
}

export const ownershipChecks = { 'schema-owner': owner, 'schema-bound': bound }
