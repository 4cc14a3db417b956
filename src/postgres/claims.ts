/** The statements of claims. The rules are in schema/claims.sql. */
import { type Kysely, type RawBuilder, sql } from 'kysely'
import type { QueryClient } from '../api/query-client.js'
import type { Registration } from '../api/registration.js'
import { fence } from '../engine/membership/fence-client.js'
import type { ClaimsPort } from '../kit/ports.js'
import { answerIfCurrent, answerOf } from './errors.js'
import { array } from './fragments.js'
import { quoteIdentifier } from './identifier.js'
import { one, strings } from './rows.js'

export class PostgresClaims implements ClaimsPort {
  readonly #writes: Kysely<unknown>
  readonly #schema: string
  readonly #cluster: string

  constructor(writes: Kysely<unknown>, schema: string, cluster: string) {
    this.#writes = writes
    this.#schema = schema
    this.#cluster = cluster
  }

  async claim(
    space: string,
    registration: Registration,
    keys: readonly string[],
  ): Promise<readonly string[] | undefined> {
    const answer = await answerIfCurrent(
      sql<{ own: string }>`
      -- claim
      select pg_catalog.to_json(${this.#name('claim')}(${this.#of(space, registration, keys)})) as own`.execute(
        this.#writes,
      ),
    )
    return answer && strings(one(answer.rows).own)
  }

  async release(
    space: string,
    registration: Registration,
    keys: readonly string[],
  ): Promise<readonly string[]> {
    const { rows } = await answerOf(
      sql<{ own: string }>`
      -- release
      select pg_catalog.to_json(${this.#name('release')}(${this.#of(space, registration, keys)})) as own`.execute(
        this.#writes,
      ),
    )
    return strings(one(rows).own)
  }

  async owner(space: string, key: string): Promise<Registration | undefined> {
    const { rows } = await answerOf(
      sql<{ member: string; token: string }>`
      -- owner
      select c.member, c.token from ${this.#name('claims')} c
      where c.cluster operator(pg_catalog.=) ${this.#cluster} and c.space operator(pg_catalog.=) ${space}
        and c.key operator(pg_catalog.=) ${key}`.execute(this.#writes),
    )
    return rows[0] && { id: rows[0].member, token: Number(rows[0].token) }
  }

  async fence(
    client: QueryClient,
    space: string,
    { id, token }: Registration,
    keys: readonly string[],
  ): Promise<void> {
    await fence(client, async () => {
      await client.query(
        `select ${quoteIdentifier(this.#schema)}.fence_claims($1, $2, $3::pg_catalog.uuid, $4::bigint, $5::pg_catalog.text[])`,
        [this.#cluster, space, id, token, [...keys]],
      )
    })
  }

  #of(space: string, { id, token }: Registration, keys: readonly string[]): RawBuilder<unknown> {
    return sql`${this.#cluster}, ${space}, ${id}::pg_catalog.uuid, ${token}::bigint, ${array(keys, 'text')}`
  }

  #name(name: string): RawBuilder<unknown> {
    return sql.id(this.#schema, name)
  }
}
