/**
 * One process of the model test: a cluster, memberships, and fenced transactions. It does what its parent
 * says, without any opinion of its own, and tells what it sees. `process.ts` has the types.
 */
import diagnostics from 'node:diagnostics_channel'
import pg from 'pg'
import { PostgresCluster } from 'pg-membership'
import { changeDigestOf, digestOf, shortened } from '../support/digest.js'
import { serve, tell as say } from '../support/worker-host.js'

/** @typedef {import('./process.js').ProcessCommands} Commands */
/** @typedef {import('./process.js').ProcessTold} Told */
/** @typedef {import('./process.js').Outcome} Outcome */
/** @typedef {{ readonly own: import('pg-membership').Membership, readonly cluster: PostgresCluster, calls: number }} Held */

const TICK_MS = 50
const STALL_MS = 250

/** @type {PostgresCluster | undefined} */
let cluster
let opened = 0
let watchedDigest = ''
let fedRevision = -1
/** All memberships ever created here. @type {Held[]} */
const all = []

/** @param {Told} told */
function tell(told) {
  say(told)
}

/** @param {number} n */
function held(n) {
  const found = all[n]
  if (found === undefined) throw new Error(`no membership ${String(n)}`)
  return found
}

function open() {
  if (cluster === undefined) throw new Error('not opened')
  return cluster
}

/** @param {PostgresCluster} own */
async function watch(own) {
  while (own === cluster && own.status.mode !== 'closed') {
    try {
      for await (const members of own.watchMembers()) if (own === cluster) watchedDigest = digestOf(members)
    } catch (error) {
      // What is refused ends a watcher; an application watches again.
      if (/** @type {{ name?: string }} */ (error).name === 'ClosedError') return
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }
}

/** As an application does that must not miss a change. @param {PostgresCluster} own */
async function feed(own) {
  const about = { cluster: own.name, opened }
  /** @type {string | undefined} */
  let since
  let again = false
  while (own === cluster && own.status.mode !== 'closed') {
    try {
      if (since === undefined) {
        await own.getMembers({ fresh: true })
        if (own !== cluster || own.snapshot === undefined) return
        since = own.snapshot.cursor
        fedRevision = own.snapshot.revision
        tell({ kind: 'feeds', ...about, revision: fedRevision, again })
      }
      let told = 0
      for await (const change of own.watchChanges({ since })) {
        if (own !== cluster) return
        const { revision, member } = change
        since = change.cursor
        fedRevision = revision
        tell({ kind: 'fed', ...about, revision, digest: changeDigestOf(change, member) })
        // As after a restart, it goes on from a cursor.
        if (++told === 10) break
      }
    } catch (error) {
      const { name } = /** @type {{ name?: string }} */ (error)
      if (name === 'ClosedError') return
      if (name === 'CompactedError') [since, again] = [undefined, true]
      else await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }
}

/** Tells how long it took. @param {PostgresCluster} own */
async function close(own) {
  const fromMs = Date.now()
  const startedMs = performance.now()
  await own.close()
  const tookMs = performance.now() - startedMs
  tell({ kind: 'closed', tookMs, fromMs })
  return { tookMs }
}

/** @param {unknown} message */
function noteLease(message) {
  const { id, token, state, error } =
    /** @type {{ id: string, token: number, state: string, error?: { code: string, reason?: string } }} */ (
      message
    )
  const n = all.findIndex(({ own }) => own.id === id)
  if (state === 'granted') tell({ kind: 'granted', n, token, calls: held(n).calls })
  else if (error !== undefined) {
    const { code, reason } = error
    tell({ kind: 'ended', n, token, atMs: Date.now(), code, ...(reason !== undefined && { reason }) })
  }
}

function noteSnapshot() {
  const snapshot = cluster?.snapshot
  if (!snapshot) return
  const { revision, members } = snapshot
  tell({ kind: 'snapshot', cluster: open().name, opened, revision, digest: digestOf(members) })
}

/** Tells whom it trusts, and when it was not running. */
function tick() {
  let lastMs = Date.now()
  let last = performance.now()
  setInterval(() => {
    const [atMs, now] = [Date.now(), performance.now()]
    if (now - last > STALL_MS) tell({ kind: 'stalled', fromMs: lastMs, untilMs: atMs })
    ;[lastMs, last] = [atMs, now]
    // What was closed has no leases: they are of the cluster that is open.
    const tokens = all.flatMap(({ own }) => own.lease?.token ?? [])
    if (tokens.length > 0) tell({ kind: 'trusts', cluster: open().name, atMs, tokens })
  }, TICK_MS)
}

/**
 * A call on a membership, and what came of it.
 * @param {number} n
 * @param {(own: Held['own']) => Promise<unknown>} make
 * @returns {Promise<Outcome>}
 */
async function call(n, make) {
  const one = held(n)
  const calls = ++one.calls
  let code
  try {
    await make(one.own)
  } catch (error) {
    code = String(/** @type {{ code?: string }} */ (error).code ?? error)
  }
  const seen = one.cluster.snapshot?.get(one.own.id)
  return {
    code,
    token: one.own.lease?.token,
    seenToken: seen?.token,
    seenData: seen && shortened(seen.data),
    // Nor does a cluster that was closed read any more.
    overtaken: one.calls !== calls || one.cluster !== cluster || one.cluster.status.mode === 'closed',
  }
}

/**
 * @param {Commands['write']['parameters']} parameters
 * @returns {Promise<Commands['write']['result']>}
 */
async function write({ n, forMs, url, onlyFirst }) {
  const { own, cluster } = held(n)
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 2_000 })
  client.on('error', () => undefined)
  try {
    await client.connect()
    await client.query('begin')
    // In one turn: what it acts on, and what fences it.
    const first = cluster.snapshot?.members[0]
    const token = cluster.snapshot?.get(own.id)?.token ?? own.lease?.token
    if (token === undefined) return 'refused'
    if (onlyFirst && first?.id !== own.id) return 'not first'
    if (token % 2 === 0) await own.fence(client)
    else await client.query('select pgmembership.fence($1::uuid, $2::bigint)', [own.id, token])
    /** @type {{ rows: { n: string }[] }} */
    const { rows } = await client.query(
      `insert into work (cluster, member, token, first, fenced_at)
       values ($1, $2, $3, $4, clock_timestamp()) returning n`,
      [cluster.name, own.id, token, onlyFirst],
    )
    await client.query('select pg_sleep($1)', [forMs / 1_000])
    await client.query('update work set done_at = clock_timestamp() where n = $1', [rows[0]?.n])
    const { command } = await client.query('commit')
    return command === 'COMMIT' ? 'committed' : 'refused'
  } catch (error) {
    return /** @type {{ code?: string }} */ (error).code === 'MB001' ? 'refused' : 'failed'
  } finally {
    client.end().catch(() => undefined)
  }
}

/** @type {{ [K in keyof Commands]: (parameters: Commands[K]['parameters']) => Promise<Commands[K]['result']> }} */
const commands = {
  async open({ memberships, ...options }) {
    if (cluster !== undefined) void close(cluster)
    opened += 1
    watchedDigest = ''
    fedRevision = -1
    const own = new PostgresCluster(options)
    cluster = own
    void watch(own)
    void feed(own)
    const created = memberships.map((membership) => own.createMembership(membership))
    all.push(...created.map((own) => ({ own, cluster: open(), calls: 0 })))
    return { ids: created.map(({ id }) => id) }
  },
  join: ({ n }) => call(n, (own) => own.register()),
  leave: ({ n }) => call(n, (own) => own.deregister()),
  rejoin: ({ n }) =>
    call(n, (own) => {
      const left = own.deregister()
      const joined = own.register()
      return Promise.all([left, joined])
    }),
  try: ({ n, forMs }) => call(n, (own) => own.register({ signal: AbortSignal.timeout(forMs) })),
  set: ({ n, data }) => call(n, (own) => own.setData(data)),
  write,
  async read() {
    const own = open()
    try {
      await own.getMembers({ fresh: true })
      return { revision: own.snapshot?.revision ?? -1 }
    } catch (error) {
      if (own.status.mode === 'closed') return {}
      return { code: String(/** @type {{ code?: string }} */ (error).code ?? error) }
    }
  },
  async block({ forMs }) {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, forMs)
    return undefined
  },
  async state() {
    const { snapshot, status } = open()
    return {
      mode: status.mode,
      revision: snapshot?.revision ?? -1,
      digest: digestOf(snapshot?.members ?? []),
      watchedDigest,
      fedRevision,
      leases: all.map(({ own }) => own.lease?.token ?? null),
    }
  },
  close: () => close(open()),
}

diagnostics.subscribe('pg-membership:heartbeat', (message) => {
  const { durationMs } = /** @type {{ durationMs: number }} */ (message)
  const untilMs = Date.now()
  tell({ kind: 'beat', fromMs: untilMs - durationMs, untilMs })
})
diagnostics.subscribe('pg-membership:lease', noteLease)
diagnostics.subscribe('pg-membership:snapshot', noteSnapshot)
tick()
serve(commands)
