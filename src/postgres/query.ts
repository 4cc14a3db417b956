/** Questions that the command line and the page ask in SQL of their own. */
import type pg from 'pg'
import { quoteIdentifier } from './identifier.js'

/** `$$.` in the text stands for the schema. */
export type Query = <T extends object>(text: string, values: readonly unknown[]) => Promise<T[]>

export function queryOf(client: Pick<pg.Client, 'query'>, schema: string): Query {
  const prefix = `${quoteIdentifier(schema)}.`
  return async <T extends object>(text: string, values: readonly unknown[]) =>
    (
      await client.query<T>(
        text.replaceAll('$$.', () => prefix),
        [...values],
      )
    ).rows
}
