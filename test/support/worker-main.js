/**
 * A process that takes part in a cluster, and does what its parent says over IPC. Plain JavaScript, so that
 * it starts at once. `worker.ts` is the parent's side, and has the types of what goes back and forth.
 */
import diagnostics from 'node:diagnostics_channel'
import dns from 'node:dns'
import pg from 'pg'
import { PostgresCluster } from 'pg-membership'
import { digestOf } from './digest.js'
import { serve, tell as say } from './worker-host.js'

/** @typedef {import('./worker.js').Commands} Commands */
/** @typedef {import('./worker.js').Told} Told */
/** @typedef {import('pg-membership').Membership} Membership */

/** @type {PostgresCluster | undefined} */
let cluster
/** @type {Membership[]} */
const memberships = []
/** @type {Promise<void> | undefined} */
let activity
let active = false
const TrueDate = Date

/** @param {Told} telling */
function tell(telling) {
  say(telling)
}

function opened() {
  if (cluster === undefined) throw new Error('not opened')
  return cluster
}

/** @param {number} n */
function membership(n) {
  const found = memberships[n]
  if (found === undefined) throw new Error(`no membership ${String(n)}`)
  return found
}

/** Every snapshot that its reader had, and every revision at which a watcher was. */
function follow() {
  const own = opened()
  diagnostics.subscribe('pg-membership:snapshot', () => {
    const { snapshot } = own
    if (snapshot) tell({ kind: 'snapshot', revision: snapshot.revision, digest: digestOf(snapshot.members) })
  })
  const watch = async () => {
    for await (const members of own.watchMembers()) {
      tell({
        kind: 'watched',
        revision: own.snapshot?.revision ?? -1,
        tokens: members.map(({ token }) => token),
      })
    }
  }
  void watch()
}

/** One lane of random changes, until told to stop. @param {() => number} chance */
async function churn(chance) {
  /** @type {Membership | undefined} */
  let own
  let n = 0
  while (active) {
    // Many processes share two cores: each leaves some to the others.
    await new Promise((resolve) => setTimeout(resolve, chance() * 30))
    try {
      if (own === undefined) {
        own = opened().createMembership({ data: `born ${String(process.pid)}` })
        await own.register()
      } else if (chance() < 0.75)
        await own.setData(`${String(process.pid)}: ${String(n++)} ${'ü'.repeat(chance() * 40)}`)
      else {
        await own.deregister()
        // Sometimes the same membership comes back, sometimes another one.
        if (chance() < 0.5) own = undefined
        else await own.register()
      }
    } catch (error) {
      tell({ kind: 'trouble', message: String(error) })
    }
  }
}

/**
 * Acts whenever members[0] is its own: raises a counter in transactions fenced by that registration, and
 * tells each that has committed.
 * @param {Commands['lead']['parameters']} options
 */
async function lead({ url, schema, table }) {
  const own = membership(0)
  const client = new pg.Client(url)
  client.on('error', () => undefined)
  await client.connect()
  while (active) {
    if (opened().snapshot?.members[0]?.id !== own.id) {
      await new Promise((resolve) => setTimeout(resolve, 1))
      continue
    }
    await client.query('begin')
    try {
      // By the very registration that made it the leader: asked for in the turn in which it is looked at.
      const [leader] = opened().snapshot?.members ?? []
      const token = leader?.id === own.id ? leader.token : 0
      const fence = `select ${schema}.fence($1, $2)`
      await (token % 2 === 1 ? own.fence(client) : client.query(fence, [own.id, token]))
      // Work that takes a while, before and after what it reads and writes.
      await client.query('select count(*) from generate_series(1, 20000)')
      const { rows } = await client.query(`select n from ${table}_counter`)
      const n = Number(/** @type {{ n: string }[]} */ (rows)[0]?.n) + 1
      await client.query('select count(*) from generate_series(1, 20000)')
      await client.query(`insert into ${table} (n, token, worker) values ($1, $2, $3)`, [
        n,
        token,
        process.pid,
      ])
      await client.query(`update ${table}_counter set n = $1`, [n])
      const { command } = await client.query('commit')
      if (command === 'COMMIT') tell({ kind: 'committed', n })
    } catch (error) {
      await client.query('rollback')
      const code = /** @type {{ code?: string }} */ (error).code
      tell(code === 'MB001' ? { kind: 'refused' } : { kind: 'trouble', message: String(error) })
    }
  }
  await client.end()
}

/** Tells the end of every lease that its memberships lost, not of those that they gave up. */
function noteLosses() {
  diagnostics.subscribe('pg-membership:lease', (message) => {
    const { id, error } = /** @type {{ id: string, error?: { code?: string, reason?: string } }} */ (message)
    if (error?.code !== 'LOST' || !memberships.some((own) => own.id === id)) return
    tell({ kind: 'lost', reason: String(error.reason) })
  })
}

/** Tells, in the first turn after this process was not running for a while, whether it trusts its lease. */
function noteStalls() {
  const INTERVAL_MS = 5
  let last = performance.now()
  setInterval(() => {
    const now = performance.now()
    const stalledMs = now - last
    last = now
    if (stalledMs < 500) return
    tell({ kind: 'stalled', stalledMs, trusted: memberships.map(({ lease }) => lease !== undefined) })
  }, INTERVAL_MS).unref()
}

/** @type {{ [K in keyof Commands]: (parameters: Commands[K]['parameters']) => Promise<Commands[K]['result']> }} */
const commands = {
  async open({ throwingLogger = false, hanging, ...rest }) {
    if (hanging === 'names') Object.assign(dns, { lookup: () => undefined })
    const options =
      hanging === 'connection' ? { ...rest, connection: () => new Promise(() => undefined) } : rest
    const fail = () => {
      throw new Error('a logger that throws')
    }
    const logger = { debug: fail, info: fail, warn: fail, error: fail }
    cluster = new PostgresCluster(throwingLogger ? { ...options, logger } : options)
    diagnostics.subscribe('pg-membership:error', (message) => {
      const { error } = /** @type {{ error: Error }} */ (message)
      tell({ kind: 'error', message: error.message })
    })
    noteLosses()
    noteStalls()
    return undefined
  },
  async follow() {
    follow()
    await opened().getMembers()
    return undefined
  },
  async join(options) {
    const joining = opened().createMembership(options)
    memberships.push(joining)
    const { token } = await joining.register()
    return { id: joining.id, token }
  },
  async setData({ n, data }) {
    await membership(n).setData(data)
    return undefined
  },
  async crowd({ sessions, memberships: each, ...options }) {
    const clusters = Array.from({ length: sessions }, () => new PostgresCluster(options))
    const joining = clusters.flatMap((own) => Array.from({ length: each }, () => own.createMembership()))
    await Promise.all(joining.map((one) => one.register()))
    return undefined
  },
  async lease(n) {
    return membership(n).lease?.token
  },
  async nextLease(n) {
    return (await membership(n).whenRegistered()).token
  },
  async snapshot() {
    const { revision = -1, members = [] } = opened().snapshot ?? {}
    return { revision, members: [...members] }
  },
  async mode() {
    return opened().status.mode
  },
  async churn({ seed, lanes }) {
    active = true
    let state = seed
    const chance = () => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
      return state / 4_294_967_296
    }
    activity = Promise.all(Array.from({ length: lanes }, () => churn(chance))).then(() => undefined)
    return undefined
  },
  async lead(options) {
    active = true
    activity = lead(options)
    activity.catch((/** @type {unknown} */ error) => tell({ kind: 'trouble', message: String(error) }))
    return undefined
  },
  async rest() {
    active = false
    await activity
    return undefined
  },
  async block(ms) {
    tell({ kind: 'blocking' })
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
    // Still the same turn: no timer and no socket has been served.
    return memberships.map(({ lease }) => lease !== undefined)
  },
  async shiftDate(ms) {
    const shifted = () => TrueDate.now() + ms
    globalThis.Date = new Proxy(TrueDate, {
      construct: (_, values) =>
        values.length === 0
          ? new TrueDate(shifted())
          : /** @type {Date} */ (Reflect.construct(TrueDate, values)),
      get: (_, key) => (key === 'now' ? shifted : /** @type {unknown} */ (Reflect.get(TrueDate, key))),
    })
    return undefined
  },
  async close() {
    await cluster?.close()
    return undefined
  },
  async letGo() {
    // The parent is not waited for any more: what keeps the process alive now is a leak.
    process.removeAllListeners('disconnect')
    setImmediate(() => process.disconnect())
    return undefined
  },
}

serve(commands)
