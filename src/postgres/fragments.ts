/**
 * Parts of statements that several of them use.
 *
 * In every statement of the library, all names have their schema, also those of operators and types. A name without one
 * is looked for in the whole search_path, and the best match is taken: it could be a stranger's function, which would
 * run as this role. Words of PostgreSQL's grammar are no names: `extract`, `coalesce`, `at time zone`, `bigint`. But
 * `in`, `between`, `nullif` and `is distinct from` look for operators. `operator(pg_catalog.=)` and all others that are
 * written so bind alike, from left to right. test/hostile-catalog.test.ts finds what was forgotten.
 */
import { type RawBuilder, sql } from 'kysely'
import type { Registration } from '../api/registration.js'
import type { Position } from '../engine/store.js'

/** One statement reads at most this many rows, and this many bytes: as many as the largest member has. */
export const PAGE_ROWS = 2_000
const PAGE_BYTES = 1_048_576
/** The approximate size of a row without its data. */
const ROW_BYTES = 100

/** The first of these rows that fit into a page together; at least one. */
export function page(rows: RawBuilder<unknown>, order: string): RawBuilder<unknown> {
  return sql`(
    select * from (
      select l.*, pg_catalog.sum(l.size) over (order by ${sql.ref(order)} rows unbounded preceding) as size_so_far
      from (
        select l.*, coalesce(pg_catalog.octet_length(l.data), 0) operator(pg_catalog.+) ${ROW_BYTES}::integer as size
        from (${rows}) l
      ) l
    ) l
    where l.size_so_far operator(pg_catalog.<=) ${PAGE_BYTES} or l.size_so_far operator(pg_catalog.=) l.size
  )`
}

/** The stamp of the event at a position's revision, as the log has it now. */
export function stampAt(
  events: RawBuilder<unknown>,
  cluster: string,
  position: Position | undefined,
): RawBuilder<unknown> {
  return sql`(
    select seen.stamp from ${events} seen
    where seen.cluster operator(pg_catalog.=) ${cluster}
      and seen.revision operator(pg_catalog.=) ${position?.revision ?? null}
  )`
}

/** The stamps that the log has at the revisions of these positions now, as JSON. */
export function stampsAt(
  events: RawBuilder<unknown>,
  cluster: string,
  positions: readonly Position[],
): RawBuilder<unknown> {
  const revisions = array(
    positions.map(({ revision }) => revision),
    'int8',
  )
  return sql`(
    select pg_catalog.json_object_agg(seen.revision, seen.stamp) from ${events} seen
    where seen.cluster operator(pg_catalog.=) ${cluster} and seen.revision operator(pg_catalog.=) any (${revisions})
  )`
}

export function memberColumns(table: string): RawBuilder<unknown> {
  return sql`pg_catalog.encode(${sql.ref(`${table}.data`)}, 'base64') as data, ${timeColumn(sql.ref(`${table}.registered_at`))}`
}

export function timeColumn(registeredAt: RawBuilder<unknown>): RawBuilder<unknown> {
  return sql`${isoTime(registeredAt)} as registered_at`
}

export function isoTime(time: RawBuilder<unknown>): RawBuilder<unknown> {
  return sql`pg_catalog.to_char(${time} at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`
}

export function array(
  values: readonly unknown[],
  type: 'bytea' | 'int8' | 'text' | 'uuid',
): RawBuilder<unknown> {
  return sql`${sql.val([...values])}::${sql.id('pg_catalog', type)}[]`
}

export const ids = (rows: readonly { readonly id: string }[]) =>
  array(
    rows.map(({ id }) => id),
    'uuid',
  )
export const tokens = (rows: readonly Registration[]) =>
  array(
    rows.map(({ token }) => token),
    'int8',
  )
export const contents = (rows: readonly { readonly data: string }[]) =>
  array(
    rows.map(({ data }) => Buffer.from(data)),
    'bytea',
  )
