/**
 * One candidate of leader.test.ts. While it leads, it writes to a ledger, each entry in a transaction that its term
 * fences. Its cluster may be cut off; its ledger never is, so it can go on writing for as long as it believes.
 */
import pg from 'pg'
import { PostgresCluster } from 'pg-membership'
import { Leader } from 'pg-membership/leader'
import { serve, tell } from '../support/worker-host.js'

/** @typedef {import('./leader-worker.js').LeaderCommands} Commands */
/** @typedef {import('./leader-worker.js').Start} Start */

/** @param {pg.Client} client @param {import('pg-membership/leader').Term} term @param {string} ledger */
async function write(client, term, ledger) {
  await client.query('begin')
  try {
    await term.fence(client)
    /** @type {pg.QueryResult<{ n: string }>} */
    const { rows } = await client.query(`update ${ledger}_counter set n = n + 1 returning n`)
    const n = Number(rows[0]?.n)
    await client.query(`insert into ${ledger} (n, token) values ($1, $2)`, [n, term.token])
    await client.query('commit')
    tell({ kind: 'committed', n })
  } catch (error) {
    await client.query('rollback')
    const { code } = /** @type {{ code?: string }} */ (error)
    if (code !== 'MB001' && code !== '55P03') throw error
  }
}

/** @param {Start} start */
async function lead({ connection, direct, schema, name, ttlMs, ledger }) {
  const client = new pg.Client({ connectionString: direct })
  await client.connect()
  const cluster = new PostgresCluster({ connection, schema, name, ttlMs })
  const membership = cluster.createMembership()
  const { token } = await membership.register()
  const leader = new Leader(cluster, membership)
  const work = async () => {
    for await (const term of leader.terms()) {
      while (!term.signal.aborted) await write(client, term, ledger)
    }
  }
  work().catch((/** @type {unknown} */ error) => tell({ kind: 'trouble', message: String(error) }))
  return { id: membership.id, token, cluster, leader, client }
}

/** @type {Awaited<ReturnType<typeof lead>> | undefined} */
let led

/** @type {{ [K in keyof Commands]: (parameters: Commands[K]['parameters']) => Promise<Commands[K]['result']> }} */
const commands = {
  async start(options) {
    led = await lead(options)
    return { id: led.id, token: led.token }
  },
  async resign() {
    await led?.leader.resign()
    return undefined
  },
  async close() {
    await led?.cluster.close()
    await led?.client.end()
    return undefined
  },
}

serve(commands)
