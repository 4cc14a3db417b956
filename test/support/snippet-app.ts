/**
 * The application that the snippets of the documentation are parts of: what one of them uses without
 * showing it comes from here. Copied beside them and run in a process of its own for each.
 */
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import pg from 'pg'
import { type Lease, type Member, type Membership, PostgresCluster } from 'pg-membership'
import { Router } from 'pg-membership/routing'
import { json, typed, type TypedCluster, type TypedMember } from 'pg-membership/typed'

export const connection = process.env.DATABASE_URL ?? ''
export const name = process.env.SNIPPET ?? 'snippet'

export const pool = new pg.Pool({ connectionString: connection, allowExitOnIdle: true })
// A connection that breaks, idle or between two queries, must find a listener, or the process ends.
pool.on('error', () => undefined)
pool.on('connect', (client) => client.on('error', () => undefined))
export const cluster = new PostgresCluster({ connection, name })
export const membership: Membership = cluster.createMembership({
  data: JSON.stringify({ url: 'http://127.0.0.1:8080', weight: 1 }),
})
export const lease: Lease = await membership.register()
export const members: readonly Member[] = await cluster.getMembers()
const [first] = members
if (first === undefined) throw new Error('nobody is registered')
export const leader: Member = first

export interface Place {
  readonly url: string
  readonly weight: number
}
export const places: TypedCluster<Place> = typed(cluster, json<Place>())
export const router = new Router<TypedMember<Place>>(places, { weight: ({ data }) => data.weight })

/** Nobody listens there. */
export async function request(url: string, { timeoutMs }: { readonly timeoutMs: number }): Promise<void> {
  await fetch(url, { signal: AbortSignal.timeout(timeoutMs) })
}

await pool.query('create table if not exists counters (id integer primary key, n bigint not null)')
await pool.query('insert into counters values (1, 0) on conflict do nothing')

export const server: Server = createServer((request, response) => response.end(request.url))
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
export const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`

/** Aborts soon: the snippets' loops are for the life of a process. */
export const signal: AbortSignal = AbortSignal.timeout(500)

export function route(targets: readonly Member[]): void {
  process.stdout.write(`${targets.map(({ data }) => data).join()}\n`)
}

/** Raises the counter, in a transaction that the term fences. */
export async function raise(term: { fence(client: pg.PoolClient): Promise<void> }): Promise<void> {
  await transaction(async (client) => {
    await term.fence(client)
    await client.query('update counters set n = n + 1 where id = 1')
  })
}

/** Takes the registration away, as somebody typing SQL would. */
export async function removeMe(): Promise<void> {
  await pool.query('delete from pgmembership.members where id = $1', [membership.id])
}

/** Ends this client's connection between two of its queries, as an administrator or a failover would. */
export async function terminate(client: pg.PoolClient): Promise<void> {
  const ended = new Promise((resolve) => client.once('end', resolve))
  const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid')
  await pool.query('select pg_terminate_backend($1)', [rows[0]?.pid])
  await ended
  await client.query('select 1')
}

/** What is done at the end of each snippet. A process that does not end by itself then has leaked something. */
export async function finish(): Promise<void> {
  server.close()
  await cluster.close()
  await pool.end()
}

// ---------------------------------------------------------------------------------------------
// Sketches of the interfaces that other libraries have for SQL of one's own, on pg: the snippets for
// them are compiled, and their SQL is run with parameters of unknown type, as those libraries send it.

interface Query {
  readonly text: string
  readonly values: unknown[]
}
type Tag<T> = (strings: TemplateStringsArray, ...values: unknown[]) => T

export const sql: Tag<Query> = (strings, ...values) => ({
  text: strings.reduce((sum, part, n) => `${sum}$${n}${part}`),
  values,
})

export const prisma = {
  $transaction: <T>(run: (tx: { $executeRaw: Tag<Promise<number>> }) => Promise<T>) =>
    transaction((client) =>
      run({ $executeRaw: async (...query) => (await client.query(sql(...query))).rowCount ?? 0 }),
    ),
}

export const drizzle = {
  transaction: <T>(run: (tx: { execute(query: Query): Promise<unknown> }) => Promise<T>) =>
    transaction((client) => run({ execute: (query) => client.query(query) })),
}

export const knex = {
  transaction: <T>(run: (trx: { raw(text: string, values: unknown[]): Promise<unknown> }) => Promise<T>) =>
    transaction((client) => {
      const numbered = (text: string): string => {
        let n = 0
        return text.replace(/\?/g, () => `$${++n}`)
      }
      return run({ raw: (text, values) => client.query(numbered(text), values) })
    }),
}

async function transaction<T>(run: (client: pg.PoolClient) => Promise<T>): Promise<T> {
  const client = await pool.connect()
  try {
    await client.query('begin')
    const result = await run(client)
    await client.query('commit')
    return result
  } catch (error) {
    await client.query('rollback')
    throw error
  } finally {
    client.release()
  }
}
