/** A routine of the schema as the catalog shows it, and what can be read from its text. */
import type { AdminClient } from './database.js'

export interface Routine {
  /** As in 'sweep(text)'. */
  readonly signature: string
  readonly name: string
  readonly definer: boolean
  readonly volatility: 'immutable' | 'stable' | 'volatile'
  readonly isTrigger: boolean
  /** As in 'search_path=s, pg_temp'. */
  readonly settings: readonly string[]
  readonly argumentTypes: readonly string[]
  /** Its names were looked up when it was made. */
  readonly isBound: boolean
  readonly source: string
}

export async function routinesOf(admin: AdminClient, schema: string): Promise<Routine[]> {
  const { rows } = await admin.query<Routine>(
    `select format('%s(%s)', proname, pg_get_function_identity_arguments(oid)) as signature, proname::text as name,
      prosecdef as definer, prorettype in ('trigger'::regtype, 'event_trigger'::regtype) as "isTrigger",
      case provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end as volatility,
      coalesce(proconfig, '{}') as settings, coalesce(pg_get_function_sqlbody(oid), prosrc) as source,
      prosqlbody is not null as "isBound",
      array(select format_type(t, null) from unnest(proargtypes) t) as "argumentTypes"
     from pg_proc where pronamespace = $1::text::regnamespace order by 1`,
    [schema],
  )
  return rows
}

const COMMENT = /--[^\n]*|\/\*[\s\S]*?\*\//
const LITERAL = /[eE]?'(?:[^']|'')*'/
const TOKENS = new RegExp(`${LITERAL.source}|${COMMENT.source}`, 'g')

/** Without comments. */
export function codeOf(source: string): string {
  return source.replace(TOKENS, (token) => (token.startsWith('-') || token.startsWith('/') ? ' ' : token))
}

/** Without comments and without what stands in quotes. */
export function wordsOf(source: string): string {
  return source.replace(TOKENS, ' ')
}

/** Whether the text of one calls the other, to judge by names. */
function calls(source: string, name: string): boolean {
  return new RegExp(`\\b${name}"?\\s*\\(`).test(wordsOf(source))
}

/**
 * All that may run with the owner's rights: definers, triggers (a definer's statement fires them), and
 * whatever these call, and so on.
 */
export function runningAsOwner(routines: readonly Routine[]): Routine[] {
  const inside = new Set(routines.filter(({ definer, isTrigger }) => definer || isTrigger))
  for (const caller of inside) {
    for (const callee of routines) if (calls(caller.source, callee.name)) inside.add(callee)
  }
  return [...inside]
}
