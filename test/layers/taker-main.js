/** A process that claims keys and uses nonces until it is told to stop, or killed. worker.ts has the types. */
import pg from 'pg'
import { PostgresCluster } from 'pg-membership'
import { Claims } from 'pg-membership/claims'
import { NoncePool } from 'pg-membership/nonces'
import { serve, tell } from '../support/worker-host.js'

/** @typedef {import('./taker.js').Commands} Commands */

/** @type {{ cluster: PostgresCluster, membership: import('pg-membership').Membership, claims: Claims, pool: NoncePool } | undefined} */
let taking
let active = false
/** @type {Promise<unknown>[]} */
let activities = []

function part() {
  if (taking === undefined) throw new Error('not opened')
  return taking
}

/** What may happen while processes are killed and connections cut: the next round sees. @param {unknown} error */
function noted(error) {
  const { code = '', message = '' } = /** @type {{ code?: string, message?: string }} */ (error)
  const expected = /^(LOST|EMPTY|MB00[12]|40001|40P01|55P03|57P0\d|08\d+|ECONN\w+|EPIPE)$/.test(code)
  if (!expected && !/terminated|timeout|ended|not queryable|closed/i.test(message))
    tell({ kind: 'trouble', message: `${code} ${message}` })
}

/**
 * Rounds of work in transactions, each on a connection that is replaced when it breaks.
 * @param {string} url
 * @param {(client: pg.Client) => Promise<void>} round
 */
async function rounds(url, round) {
  /** @type {pg.Client | undefined} */
  let client
  while (active) {
    try {
      if (client === undefined) {
        client = new pg.Client({
          connectionString: url,
          connectionTimeoutMillis: 2_000,
          query_timeout: 5_000,
        })
        client.on('error', () => undefined)
        await client.connect()
      }
      await round(client)
    } catch (error) {
      noted(error)
      client?.end().catch(() => undefined)
      client = undefined
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }
  await client?.end()
}

/** @param {Commands['work']['parameters']} options */
function contend({ url, table, keys }) {
  const { claims, membership } = part()
  return rounds(url, async (client) => {
    const first = Math.floor(Math.random() * keys)
    const wanted = Array.from(
      { length: 1 + Math.floor(Math.random() * 5) },
      (_, n) => `key ${String((first + n) % keys)}`,
    )
    const ours = [...(await claims.claim(wanted))]
    if (ours.length === 0) return
    await client.query('begin')
    await claims.fence(client, ours)
    // From here to the commit nobody else may be here with one of these keys.
    await client.query(
      `insert into ${table}_inside (key, member, since) select key, $1, clock_timestamp() from unnest($2::text[]) key`,
      [membership.id, ours],
    )
    await client.query('select pg_sleep(random() / 100)')
    await client.query(
      `update ${table}_inside set until = clock_timestamp() where until is null and member = $1 and key = any ($2)`,
      [membership.id, ours],
    )
    await client.query('commit')
    if (Math.random() < 0.7) await claims.release(ours)
  })
}

/** @param {Commands['work']['parameters']} options */
function spend({ url, table }) {
  const { pool } = part()
  return rounds(url, async (client) => {
    const nonce = await pool.take()
    const chance = Math.random()
    if (chance < 0.1) {
      await nonce.release()
      return
    }
    await client.query('begin')
    await nonce.use(client)
    await client.query(`insert into ${table}_used (value) values ($1)`, [nonce.value])
    if (chance < 0.2) {
      await client.query('rollback')
      await client.query('begin')
      await nonce.use(client)
      await client.query(`insert into ${table}_used (value) values ($1)`, [nonce.value])
    }
    await client.query('commit')
  })
}

/** @type {{ [K in keyof Commands]: (parameters: Commands[K]['parameters']) => Promise<Commands[K]['result']> }} */
const commands = {
  async open({ size, ...options }) {
    const cluster = new PostgresCluster(options)
    const membership = cluster.createMembership()
    await membership.register()
    taking = {
      cluster,
      membership,
      claims: new Claims({ cluster, membership }),
      pool: new NoncePool({ cluster, membership, name: 'chaos', size }),
    }
    return undefined
  },
  async claim(keys) {
    return [...(await part().claims.claim(keys))]
  },
  async take(count) {
    const taken = []
    for (let n = 0; n < count; n++) taken.push((await part().pool.take()).value)
    return taken
  },
  async work(options) {
    active = true
    activities = [contend(options), spend(options)]
    return undefined
  },
  async rest() {
    active = false
    await Promise.allSettled(activities)
    await taking?.pool.close()
    await taking?.cluster.close()
    return undefined
  },
}

serve(commands)
