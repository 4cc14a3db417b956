/** The statements of nonces. The rules are in schema/nonces.sql. */
import { type Kysely, type RawBuilder, sql } from 'kysely'
import type { QueryClient } from '../api/query-client.js'
import type { Registration } from '../api/registration.js'
import { fence } from '../engine/membership/fence-client.js'
import type { NoncesPort, Taken } from '../kit/ports.js'
import { answerIfCurrent, answerOf } from './errors.js'
import { array } from './fragments.js'
import { quoteIdentifier } from './identifier.js'
import { one, strings } from './rows.js'

export class PostgresNonces implements NoncesPort {
  readonly #writes: Kysely<unknown>
  readonly #schema: string
  readonly #cluster: string

  constructor(writes: Kysely<unknown>, schema: string, cluster: string) {
    this.#writes = writes
    this.#schema = schema
    this.#cluster = cluster
  }

  async stock(pool: string, values: readonly string[]): Promise<number> {
    const { rows } = await answerOf(
      sql<{ added: string }>`
      -- stock_nonces
      select ${this.#name('stock_nonces')}(${this.#cluster}, ${pool}, ${array(values, 'text')}) as added`.execute(
        this.#writes,
      ),
    )
    return Number(one(rows).added)
  }

  async take(
    pool: string,
    registration: Registration,
    batch: string,
    lost: readonly string[],
    most: number,
  ): Promise<readonly string[] | undefined> {
    const answer = await answerIfCurrent(
      sql<{ taken: string }>`
      -- take_nonces
      select pg_catalog.to_json(${this.#name('take_nonces')}(
        ${this.#of(pool, registration)}, ${batch}::pg_catalog.uuid, ${array(lost, 'uuid')}, ${most}::integer
      )) as taken`.execute(this.#writes),
    )
    return answer && strings(one(answer.rows).taken)
  }

  async giveBack(
    pool: string,
    registration: Registration,
    taken: readonly Taken[],
    lost: readonly string[],
  ): Promise<readonly string[]> {
    const values = taken.map(({ value }) => value)
    const batches = taken.map(({ batch }) => batch)
    const { rows } = await answerOf(
      sql<{ left: string }>`
      -- return_nonces
      select pg_catalog.to_json(${this.#name('return_nonces')}(
        ${this.#of(pool, registration)}, ${array(values, 'text')}, ${array(batches, 'uuid')}, ${array(lost, 'uuid')}
      )) as left`.execute(this.#writes),
    )
    return strings(one(rows).left)
  }

  async use(
    client: QueryClient,
    pool: string,
    { id, token }: Registration,
    { value, batch }: Taken,
  ): Promise<void> {
    await fence(client, async () => {
      await client.query(
        `select ${quoteIdentifier(this.#schema)}.use_nonce($1, $2, $3::pg_catalog.uuid, $4::bigint, $5::pg_catalog.uuid, $6)`,
        [this.#cluster, pool, id, token, batch, value],
      )
    })
  }

  #of(pool: string, { id, token }: Registration): RawBuilder<unknown> {
    return sql`${this.#cluster}, ${pool}, ${id}::pg_catalog.uuid, ${token}::bigint`
  }

  #name(name: string): RawBuilder<unknown> {
    return sql.id(this.#schema, name)
  }
}
