/** Values taken per second: from a pool with some at hand, and one by one with `for update skip locked`. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import pg from 'pg'
import { PostgresCluster } from 'pg-membership'
import { NoncePool } from 'pg-membership/nonces'

const TAKER = join(import.meta.dirname, '../nonce-taker.js')

export interface Taken {
  readonly processes: number
  /** With so many at hand; or by hand. */
  readonly way: string
  readonly perSecond: number
}

/** One process with all values at hand: what a take costs without the database, in microseconds. */
export async function fromList(postgres: string): Promise<number> {
  const count = 10_000
  const cluster = new PostgresCluster({ connection: postgres, name: 'list' })
  const membership = cluster.createMembership()
  await membership.register()
  const pool = new NoncePool({ cluster, membership, name: 'list', size: count })
  await pool.stock(Array.from({ length: count }, (_, n) => `value ${n}`))
  await pool.take()
  const started = performance.now()
  const taken = count / 2 - 1
  for (let n = 0; n < taken; n++) await pool.take()
  const us = (1_000 * (performance.now() - started)) / taken
  await cluster.close()
  return us
}

export async function taken(postgres: string): Promise<Taken[]> {
  const seconds = Number(process.env.SECONDS ?? 5)
  const stock = Number(process.env.STOCK ?? 1_000_000)
  const client = new pg.Client({ connectionString: postgres })
  await client.connect()
  await client.query('create table by_hand (value text primary key, taken boolean not null default false)')
  await client.query('create index on by_hand (value) where not taken')
  const results: Taken[] = []
  for (const way of ['by hand', '100', '1000']) {
    for (const processes of [1, 4, 16]) {
      await client.query('truncate by_hand, pgmembership.nonces')
      const into = way === 'by hand' ? 'by_hand (value)' : 'pgmembership.nonces (cluster, name, value)'
      const columns = way === 'by hand' ? '' : `'nonces', 'bench', `
      await client.query(`insert into ${into} select ${columns} n::text from generate_series(1, $1) n`, [
        stock,
      ])
      await client.query('vacuum analyze')
      results.push({
        processes,
        way,
        perSecond: (await together(postgres, way, processes, seconds)) / seconds,
      })
    }
  }
  await client.end()
  return results
}

async function together(postgres: string, way: string, processes: number, seconds: number): Promise<number> {
  const takers = Array.from({ length: processes }, () => {
    const child = spawn(process.execPath, [TAKER, postgres, way, String(seconds)], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    let output = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text))
    return {
      child,
      closed: once(child, 'close'),
      count: () => Number(output.replace('ready', '')),
      ready: once(child.stdout, 'data'),
    }
  })
  await Promise.all(takers.map(({ ready }) => ready))
  for (const { child } of takers) child.stdin.write('go\n')
  await Promise.all(takers.map(({ closed }) => closed))
  return takers.reduce((sum, { count }) => sum + count(), 0)
}
