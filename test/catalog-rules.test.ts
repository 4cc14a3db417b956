/** Rules for every function and table of the schema, also for those that are added later. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { foreignNames } from './support/catalog.js'
import { type AdminClient, adminClient } from './support/database.js'
import { KINDS, type Role, type Roles, startRoles } from './support/roles.js'
import { codeOf, type Routine, routinesOf, runningAsOwner, wordsOf } from './support/source.js'

/** Those that members, operators and readers may call, and how they run. A new one is entered here on purpose. */
const FOR_READERS = {
  'channel(cluster_name text)': 'stable, as the caller',
  'data_at(cluster_name text, member_id uuid, registration bigint, moment timestamp with time zone)':
    'stable, as the caller',
  'heard_at(member_id uuid, registration bigint, heartbeat_at timestamp with time zone)':
    'stable, as the caller',
  'kept_past_ttl(cluster_name text, since timestamp with time zone)': 'stable, as the caller',
  'members_at(cluster_name text, moment timestamp with time zone)': 'stable, as the caller',
  'readable(data bytea)': 'immutable, as the caller',
  'schema_version(OUT version integer, OUT compatible_from integer)': 'immutable, as the caller',
  'stays_between(cluster_name text, since timestamp with time zone, until timestamp with time zone, newest bigint)':
    'stable, as the caller',
  'stays_at(cluster_name text, moment timestamp with time zone)': 'stable, as the caller',
  'sweep(cluster_name text, OUT wait_ms integer, OUT removed integer, OUT obstacles text[])':
    'volatile, as the caller',
  'sweep_as_owner(cluster_name text, OUT wait_ms integer, OUT removed integer, OUT obstacles text[])':
    'volatile, as the owner',
  'sweep_idle(cluster_names text[])': 'volatile, as the owner',
  'sweep_overdue(cluster_name text)': 'volatile, as the caller',
}
const FOR_MEMBERS = {
  ...FOR_READERS,
  'claim(cluster_name text, space_name text, member_id uuid, registration bigint, keys text[])':
    'volatile, as the owner',
  'deregister(cluster_name text, ids uuid[], tokens bigint[], OUT pending uuid[], OUT obstacles text[], OUT gone uuid[], OUT revision bigint, OUT stamp uuid, OUT previous_stamp uuid)':
    'volatile, as the caller',
  'deregister_as_owner(cluster_name text, ids uuid[], tokens bigint[], OUT pending uuid[], OUT obstacles text[], OUT gone uuid[], OUT revision bigint, OUT stamp uuid, OUT previous_stamp uuid)':
    'volatile, as the owner',
  'fence(member text, registration bigint)': 'volatile, as the caller',
  'fence(member text, registration text)': 'volatile, as the caller',
  'fence(member uuid, registration bigint)': 'volatile, as the owner',
  'fence(member uuid, registration text)': 'volatile, as the caller',
  'fence_claims(cluster_name text, space_name text, member_id uuid, registration bigint, keys text[])':
    'volatile, as the owner',
  'heartbeat(cluster_name text, ids uuid[], tokens bigint[], session_name text, client_pid integer, OUT revision bigint, OUT stamp uuid, OUT sweep_overdue boolean, OUT locked uuid[], OUT missing uuid[], OUT reasons text[], OUT channel_stamp uuid)':
    'volatile, as the owner',
  'members_channel(cluster_name text, OUT name text, OUT key bytea, OUT stamp uuid)':
    'volatile, as the owner',
  'register(cluster_name text, ids uuid[], contents bytea[], floors bigint[], member_ttl interval, member_crash_grace interval, session_name text, client_pid integer, attempted_at timestamp with time zone)':
    'volatile, as the caller',
  'register_as_owner(cluster_name text, ids uuid[], contents bytea[], floors bigint[], member_ttl interval, member_crash_grace interval, session_name text, client_pid integer, attempted_at timestamp with time zone, may_remove boolean)':
    'volatile, as the owner',
  'release(cluster_name text, space_name text, member_id uuid, registration bigint, keys text[])':
    'volatile, as the owner',
  'return_nonces(cluster_name text, pool_name text, member_id uuid, registration bigint, returned text[], batches uuid[], lost uuid[])':
    'volatile, as the owner',
  'set_data(cluster_name text, ids uuid[], tokens bigint[], contents bytea[], OUT pending uuid[], OUT changed uuid[], OUT registered timestamp with time zone[], OUT revision bigint, OUT stamp uuid, OUT previous_stamp uuid)':
    'volatile, as the owner',
  'stock_nonces(cluster_name text, pool_name text, stocked text[])': 'volatile, as the owner',
  'take_nonces(cluster_name text, pool_name text, member_id uuid, registration bigint, new_batch uuid, lost uuid[], most integer)':
    'volatile, as the owner',
  'use_nonce(cluster_name text, pool_name text, member_id uuid, registration bigint, taken_batch uuid, nonce text)':
    'volatile, as the owner',
}
const FOR_OPERATORS = {
  ...FOR_READERS,
  'allow(cluster_name text, member_id uuid)': 'volatile, as the owner',
  'drain(cluster_name text, member_id uuid, note text, stay_away interval)': 'volatile, as the owner',
  'evict(cluster_name text, member_id uuid, note text, stay_away interval)': 'volatile, as the owner',
}

/** What runs statements, or names of things, that the caller has prepared. */
const RUNS_WHAT_THE_CALLER_HAS_PREPARED: Readonly<Record<string, RegExp>> = {
  'fires pending triggers': /\bset\s+constraints\b/i,
  'runs text, or a prepared statement': /\bexecute\b/i,
  'runs text': /\b(query|cursor|table|schema|database)_to_xml|\bts_(stat|rewrite)\s*\(|\bdblink|\bdo\s+\$/i,
  'reads a cursor':
    /\brefcursor\b|\b(fetch|move)\s+(next|prior|first|last|absolute|relative|forward|backward|all|from|in)\b/i,
  'changes who it is': /\b(set|reset)\s+(local\s+|session\s+)?(role|session\s+authorization|all)\b/i,
  'evaluates the indexes of others': /\b(analyze|vacuum|reindex|refresh\s+materialized)\b/i,
}

/** Literals that mean something else under another setting, and what keeps them from it. */
const DEPENDS_ON_SETTINGS: readonly { readonly what: RegExp; readonly pins: readonly string[] }[] = [
  { what: /'\{[^']*\bnull\b[^']*\}'/i, pins: ['array_nulls=on'] },
  { what: /(?<![eE])'(?:[^'\\]|'')*\\/, pins: ['standard_conforming_strings=on'] },
  {
    what: /(?<!\bnull\s*)::\s*(timestamp|timestamptz|date|time|timetz)\b(?!\s*\[)/i,
    pins: ['DateStyle=', 'TimeZone='],
  },
  { what: /\bto_(char|date|timestamp)\s*\(/i, pins: ['DateStyle=', 'TimeZone=', 'lc_time='] },
  // Added to a time, a day has 23 to 25 hours.
  {
    what: /'[^']*\d\s*(d|days?|w|weeks?|mons?|months?|y|years?)\b[^']*'(?=\s*::\s*interval)/i,
    pins: ['TimeZone='],
  },
  { what: /\binterval\s*'[^']*\d\s*(d|days?|w|weeks?|mons?|months?|y|years?)\b/i, pins: ['TimeZone='] },
  { what: /\bdate_(trunc|part|bin)\s*\(|\b(current_date|localtime|localtimestamp)\b/i, pins: ['TimeZone='] },
]

let granted: Roles
let admin: AdminClient
let routines: readonly Routine[]

beforeAll(async () => {
  granted = await startRoles()
  admin = await adminClient()
  routines = await routinesOf(admin, granted.schema)
})
afterAll(() => admin.end())

function signatures(some: readonly Routine[]): string[] {
  return some.map(({ signature }) => signature)
}

/** One column, as text. */
async function column(text: string, ...values: unknown[]): Promise<string[]> {
  const { rows } = await admin.query<unknown[]>({ text, values, rowMode: 'array' })
  return rows.map(([value]) => String(value))
}

async function executableBy(role: Role): Promise<Record<string, string>> {
  const allowed = await column(
    `select format('%s(%s)', proname, pg_get_function_identity_arguments(oid)) from pg_proc
     where pronamespace = $1::text::regnamespace and has_function_privilege($2, oid, 'execute')`,
    granted.schema,
    granted.nameOf[role],
  )
  return Object.fromEntries(
    routines
      .filter(({ signature }) => allowed.includes(signature))
      .map(({ signature, volatility, definer }) => [
        signature,
        `${volatility}, as the ${definer ? 'owner' : 'caller'}`,
      ]),
  )
}

describe('promise 15: what runs with the rights of the owner', () => {
  test('looks for names in its own schema, and in that of the caller last', () => {
    const pinned = `search_path=${granted.schema}, pg_temp`
    const roots = routines.filter(({ definer, isTrigger }) => definer || isTrigger)
    expect(signatures(roots.filter(({ settings }) => !settings.includes(pinned)))).toEqual([])
    expect(roots.length).toBeGreaterThan(5)
  })

  test('runs nothing that the caller has queued, prepared or named, however deep it calls', () => {
    const found = runningAsOwner(routines).flatMap(({ signature, source }) =>
      Object.entries(RUNS_WHAT_THE_CALLER_HAS_PREPARED)
        .filter(([, pattern]) => pattern.test(wordsOf(source)))
        .map(([what]) => `${signature} ${what}`),
    )
    expect(found).toEqual([])
  })

  test('takes no argument whose type brings functions of the caller, or names something', () => {
    const harmless = /^(uuid|text|bytea|bigint|integer|boolean|interval|timestamp with time zone)(\[\])?$/
    const found = routines.filter(
      ({ definer, argumentTypes }) => definer && argumentTypes.some((type) => !harmless.test(type)),
    )
    expect(signatures(found)).toEqual([])
  })

  test('is written in a language that is trusted to read only what its role may', async () => {
    const languages = await column(
      `select distinct lanname from pg_proc p join pg_language l on l.oid = prolang where pronamespace = $1::text::regnamespace`,
      granted.schema,
    )
    expect(languages.toSorted()).toEqual(['plpgsql', 'sql'])
  })
})

describe('promise 15: no path changes what a name means', () => {
  test('in a function: it sets its own path, or was bound when it was made', () => {
    const pinned = `search_path=${granted.schema}, pg_temp`
    const found = routines.filter(({ settings, isBound }) => !settings.includes(pinned) && !isBound)
    expect(signatures(found)).toEqual([])
  })

  test('in what was bound when it was made: it names what PostgreSQL or the schema has', async () => {
    expect(await foreignNames(admin, granted.schema)).toEqual([])
  })

  test('in a schema where everything is the owner’s', async () => {
    const found = await column(
      `select format('%s of %s', object, owner::regrole) from (
         select nspname::text as object, nspowner as owner, oid as schema from pg_namespace
         union all select relname, relowner, relnamespace from pg_class
         union all select proname, proowner, pronamespace from pg_proc
         union all select typname, typowner, typnamespace from pg_type
       ) all_of_it
       where schema = $1::text::regnamespace and owner <> $2::text::regrole`,
      granted.schema,
      `"${granted.nameOf.owner}"`,
    )
    expect(found).toEqual([])
  })
})

describe('promise 15: who may call', () => {
  test('public may call nothing', async () => {
    const found = await column(
      `select oid::regprocedure from pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner)))
       where pronamespace = $1::text::regnamespace and grantee = 0`,
      granted.schema,
    )
    expect(found).toEqual([])
  })

  test('nobody but the owner may attach a trigger function to a table', async () => {
    const found = await column(
      `select format('%s by %s', oid::regprocedure, grantee::regrole)
       from pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner)))
       where pronamespace = $1::text::regnamespace and prorettype = 'trigger'::regtype and grantee <> proowner`,
      granted.schema,
    )
    expect(found).toEqual([])
    expect(routines.filter(({ isTrigger }) => isTrigger).length).toBeGreaterThan(2)
  })

  test('a trigger calls functions of the schema only', async () => {
    const found = await column(
      `select tgname from pg_trigger t join pg_class c on c.oid = tgrelid join pg_proc p on p.oid = tgfoid
       where relnamespace = $1::text::regnamespace and pronamespace <> relnamespace and not tgisinternal`,
      granted.schema,
    )
    expect(found).toEqual([])
  })

  test('a reader may call these, and they run so', async () => {
    expect(await executableBy('reader')).toEqual(FOR_READERS)
  })

  test('a member may call these, and they run so', async () => {
    expect(await executableBy('member')).toEqual(FOR_MEMBERS)
  })

  test('an operator may call these, and they run so', async () => {
    expect(await executableBy('operator')).toEqual(FOR_OPERATORS)
  })
})

describe.each(KINDS)('promise 15: a %s', (role) => {
  test('has nothing but select on any table or view', async () => {
    const found = await column(
      `select format('%s on %s', privilege_type, relname) from pg_class,
         aclexplode(coalesce(relacl, acldefault(case when relkind = 'S' then 's' else 'r' end::"char", relowner)))
       where relnamespace = $1::text::regnamespace and relkind not in ('i', 'I', 'c', 't')
         and (grantee = 0 or pg_has_role($2, grantee, 'member')) and (privilege_type <> 'SELECT' or is_grantable)`,
      granted.schema,
      granted.nameOf[role],
    )
    expect(found).toEqual([])
  })

  test('has no privilege on a column', async () => {
    const found = await column(
      `select format('%s.%s', relname, attname) from pg_attribute join pg_class c on c.oid = attrelid
       where relnamespace = $1::text::regnamespace and attacl is not null`,
      granted.schema,
    )
    expect(found).toEqual([])
  })

  test('can create nothing in the schema, and is no member of its owner', async () => {
    const found = await column(
      `select p from unnest(array[
         case when has_schema_privilege($2, $1, 'create') then 'create' end,
         case when pg_has_role($2, $3, 'member') then 'is owner' end
       ]) p where p is not null`,
      granted.schema,
      granted.nameOf[role],
      granted.nameOf.owner,
    )
    expect(found).toEqual([])
  })

  test('is shown by a policy whatever row level security would hide', async () => {
    const found = await column(
      `select relname from pg_class c
       where relnamespace = $1::text::regnamespace and relkind = 'r' and has_table_privilege($2, oid, 'select')
         and not exists (
           select from pg_policy where polrelid = c.oid and polpermissive and polcmd = '*' and polroles = '{0}'
             and pg_get_expr(polqual, c.oid) = 'true'
         )`,
      granted.schema,
      granted.nameOf[role],
    )
    expect(found).toEqual([])
  })

  test('reads no table through a view with the rights of another', async () => {
    // A view reads with the rights of its owner: whoever may read it must be allowed to read what it reads.
    const found = await column(
      `select distinct format('%s reads %s', v.relname, t.relname)
       from pg_class v join pg_rewrite r on r.ev_class = v.oid
       join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
         and d.refclassid = 'pg_class'::regclass and d.refobjid <> v.oid
       join pg_class t on t.oid = d.refobjid
       where v.relnamespace = $1::text::regnamespace and v.relkind = 'v'
         and has_table_privilege($2, v.oid, 'select') and not has_table_privilege($2, t.oid, 'select')`,
      granted.schema,
      granted.nameOf[role],
    )
    expect(found).toEqual([])
  })
})

describe('no setting of a role or database changes what', () => {
  const missing = (source: string, settings: readonly string[]): string[] =>
    DEPENDS_ON_SETTINGS.filter(({ what }) => what.test(codeOf(source)))
      .flatMap(({ pins }) => pins)
      .filter((pin) => !settings.some((setting) => setting.toLowerCase().startsWith(pin.toLowerCase())))

  test('a function means', () => {
    const found = routines.flatMap(({ signature, source, settings }) =>
      missing(source, settings).map((pin) => `${signature} needs ${pin}`),
    )
    expect(found).toEqual([])
  })

  test('a view means', async () => {
    const found = await column(
      `select relname || E'\\n' || pg_get_viewdef(oid) from pg_class
       where relnamespace = $1::text::regnamespace and relkind = 'v'`,
      granted.schema,
    )
    expect(found.length).toBeGreaterThan(0)
    expect(found.filter((view) => missing(view, []).length > 0)).toEqual([])
  })
})
