/**
 * A process of the failover test: a member that changes its data all the time, and writes to a ledger, fenced by its
 * registration, whenever it is members[0]. It comes to the database through HAProxy, or by asking Patroni.
 */
import diagnostics from 'node:diagnostics_channel'
import pg from 'pg'
import { PostgresCluster } from 'pg-membership'
import { serve, tell } from '../support/worker-host.js'

/** @typedef {import('./failovers.test.js').MemberCommands} Commands */
/** @typedef {import('pg-membership').Membership} Membership */

/** @type {PostgresCluster | undefined} */
let cluster
/** @type {Membership | undefined} */
let membership
let active = true
/** @type {Promise<unknown> | undefined} */
let work

/** @param {number} ms */
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** @param {readonly string[]} restUrls */
async function primaryOf(restUrls) {
  for (const url of restUrls) {
    try {
      const response = await fetch(`${url}/cluster`, { signal: AbortSignal.timeout(1_000) })
      const { members } = /** @type {{ members: { role: string, port: number }[] }} */ (await response.json())
      const leader = members.find(({ role }) => role === 'leader')
      if (leader) return `postgres://postgres@127.0.0.1:${String(leader.port)}/postgres`
    } catch {
      // The other one may know.
    }
  }
  throw new Error('no primary')
}

/** @param {Membership} own */
async function changeData(own) {
  for (let n = 0; active; n++) {
    await own.setData(`${String(process.pid)}: ${String(n)}`)
    await pause(100)
  }
}

/**
 * @param {PostgresCluster} seen
 * @param {Membership} own
 * @param {() => string | Promise<string>} connection
 */
async function write(seen, own, connection) {
  /** @type {pg.Client | undefined} */
  let client
  while (active) {
    await pause(5)
    if (seen.snapshot?.members[0]?.id !== own.id || own.lease === undefined) continue
    const { token } = own.lease
    try {
      if (client === undefined) {
        client = new pg.Client({
          connectionString: await connection(),
          query_timeout: 5_000,
          connectionTimeoutMillis: 2_000,
        })
        client.on('error', () => undefined)
        await client.connect()
      }
      await client.query('begin')
      await client.query('select pgmembership.fence($1, $2)', [own.id, token])
      const { rows } = await client.query('update counter set n = n + 1 returning n')
      const n = Number(/** @type {{ n: string }[]} */ (rows)[0]?.n)
      await client.query('insert into ledger (n, token) values ($1, $2)', [n, token])
      const { command } = await client.query('commit')
      if (command === 'COMMIT') tell({ kind: 'committed', n, at: Date.now() })
    } catch {
      // Whether it was committed nobody knows. What was told is what counts.
      void client?.end().catch(() => undefined)
      client = undefined
    }
  }
  await client?.end()
}

/** @type {{ [K in keyof Commands]: (parameters: Commands[K]['parameters']) => Promise<Commands[K]['result']> }} */
const commands = {
  async join({ url, restUrls, name }) {
    const connection = url ?? (() => primaryOf(restUrls))
    cluster = new PostgresCluster({ connection, name })
    diagnostics.subscribe('pg-membership:lease', (message) => {
      const { error } = /** @type {{ error?: { code?: string, reason?: string } }} */ (message)
      if (error?.code === 'LOST') tell({ kind: 'lost', reason: String(error.reason) })
    })
    diagnostics.subscribe('pg-membership:error', (message) => {
      tell({ kind: 'error', message: /** @type {{ error: Error }} */ (message).error.message })
    })
    membership = cluster.createMembership({ data: '' })
    const { token } = await membership.register()
    work = Promise.all([changeData(membership), write(cluster, membership, () => url ?? primaryOf(restUrls))])
    work.catch((/** @type {unknown} */ error) => tell({ kind: 'trouble', message: String(error) }))
    return { id: membership.id, token }
  },
  async token() {
    return (await membership?.whenRegistered())?.token
  },
  async rest() {
    active = false
    await work
    return undefined
  },
  async members() {
    return (
      (await cluster?.getMembers({ fresh: true }))?.map(({ id, token, data }) => ({ id, token, data })) ?? []
    )
  },
  async close() {
    await cluster?.close()
    return undefined
  },
}

serve(commands)
