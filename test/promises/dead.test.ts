import type { PostgresCluster } from 'pg-membership'
import { migrate } from 'pg-membership'
import { afterAll, expect, test, vi } from 'vitest'
import { type AdminClient, uniqueName } from '../support/database.js'
import { eventsOf, expectWholeLog, tableOf } from '../support/event-log.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import { startPostgres } from '../support/postgres-server.js'
import { size } from '../support/size.js'
import { until } from '../support/until.js'
import { startWorker } from '../support/worker.js'

// Many processes take long to start on a busy machine. The bounds that count are the server's times, below.
vi.setConfig({ testTimeout: 90_000 })

const CROWD = size(50, 12)
const FEW = size(20, 6)

const schema = 'pgmembership'
const server = await startPostgres({ fsync: false, settings: { max_connections: '300' } })
afterAll(() => server[Symbol.asyncDispose]())
await migrate({ connection: server.url })

const TTL_MS = 1_500
const GRACE_MS = 400
/** As seldom as is allowed. */
const HEARTBEAT_MS = TTL_MS / 2

/**
 * Sweeping went on: somebody else was there. When nobody sweeps for a third of the ttl, evidence of a crash
 * from before is void. So the ttl is long here: a busy machine may stop sweeping for half a second, not for two.
 */
const CRASHED = { reason: 'crashed', boundMs: GRACE_MS + 2_000, ttlMs: 4 * TTL_MS }
const EXPIRED = { reason: 'expired', boundMs: TTL_MS + 2_000 }
/** Sweeping had a break, since those whose turn it was died, too: whoever is left notices when it next asks. */
const EXPIRED_AFTER_A_BREAK = { reason: 'expired', boundMs: HEARTBEAT_MS + TTL_MS + 2_000 }

interface Case {
  readonly sessions?: number
  readonly memberships?: number
  readonly how: 'SIGKILL' | 'SIGSTOP' | 'power loss'
  /** Who notices: somebody who was there, or comes afterwards. */
  readonly witness: 'there' | 'comes at once' | 'comes late'
  /** How many memberships the witness has; 0: it only reads. */
  readonly witnesses: number
  /** From the death, or from when the witness came. */
  readonly gone: { readonly reason: string; readonly boundMs: number; readonly ttlMs?: number }
}

const KILLED = { how: 'SIGKILL', witness: 'there', witnesses: 1, gone: CRASHED } as const
const STOPPED = { how: 'SIGSTOP', witness: 'there', witnesses: 1, gone: EXPIRED } as const
const cases: Record<string, Case> = {
  'a process that is killed': KILLED,
  'a process that is stopped': STOPPED,
  'a process whose machine loses power': { ...STOPPED, how: 'power loss' },
  'the last member, killed before the eyes of a reader': { ...KILLED, witnesses: 0 },
  'the last member, stopped before the eyes of a reader': { ...STOPPED, witnesses: 0 },
  'the last member, when a reader comes long afterwards': {
    ...KILLED,
    witness: 'comes late',
    witnesses: 0,
    gone: EXPIRED,
  },
  'the last member, when a process comes long afterwards': {
    ...KILLED,
    witness: 'comes late',
    gone: EXPIRED,
  },
  [`${FEW - 1} processes of ${FEW} at once`]: { ...KILLED, sessions: FEW - 1, gone: EXPIRED_AFTER_A_BREAK },
  [`all of ${CROWD} processes at once, before the eyes of a reader`]: {
    ...KILLED,
    sessions: CROWD,
    witnesses: 0,
    gone: EXPIRED_AFTER_A_BREAK,
  },
  [`all of ${FEW} processes at once, when the first is started again`]: {
    ...KILLED,
    sessions: FEW,
    witness: 'comes at once',
    gone: EXPIRED_AFTER_A_BREAK,
  },
  'a process with 1,000 memberships that is killed': { ...KILLED, memberships: 1_000 },
  'a process with 1,000 memberships that is stopped': { ...STOPPED, memberships: 1_000 },
  'one process of two with 20 memberships each': { ...KILLED, memberships: 20, witnesses: 20 },
}

async function witness(name: string, count: number, ttlMs: number): Promise<PostgresCluster> {
  const timing = { ttlMs, crashGraceMs: GRACE_MS, heartbeatMs: HEARTBEAT_MS }
  const cluster = openCluster({ name, connection: server.url, ...timing })
  await cluster.getMembers()
  for (let n = 0; n < count; n++) await joined(cluster, { data: 'witness' })
  return cluster
}

/** Microseconds of the server's clock. */
async function now(admin: AdminClient): Promise<bigint> {
  const { rows } = await admin.query<{ at: string }>(
    'select (extract(epoch from clock_timestamp()) * 1000000)::bigint::text as at',
  )
  return BigInt(rows[0]?.at ?? 0)
}

/** Evidence of a crash counts for who has sent a heartbeat since sweeping resumed. A crowd that registers may interrupt sweeping. */
async function heardSinceResumed(admin: AdminClient, name: string): Promise<void> {
  await until(
    async () => {
      const { rowCount } = await admin.query(
        `select from ${schema}.sweeps s where s.cluster = $1 and s.swept_at > clock_timestamp() - 2 * s.pace
          and not exists (
            select from ${schema}.members m where m.cluster = s.cluster and m.heartbeat_at <= s.resumed_at
          )`,
        [name],
      )
      return rowCount === 1
    },
    { message: 'sweeping goes on, and all were heard of since it resumed' },
  )
}

/** Each of many has been given its turn to sweep, long after this moment. */
async function turnsAreTaken(admin: AdminClient, name: string, sessions: number): Promise<void> {
  await until(
    async () => {
      const { rowCount } = await admin.query(
        `select from ${schema}.sweeps where cluster = $1 and turn > clock_timestamp() + $2 * pace`,
        [name, 0.8 * sessions],
      )
      return rowCount === 1
    },
    { message: 'the turns are handed out' },
  )
}

test.each(Object.entries(cases))(
  'promise 6: %s: gone in time, for the right reason',
  async (_what, { sessions = 1, memberships = 1, how, witness: when, witnesses, gone }) => {
    const [admin, proxy, worker, name] = [
      await openAdmin(server.url),
      await openProxy(server.url),
      await startWorker(),
      uniqueName(),
    ]
    const { reason, boundMs, ttlMs = TTL_MS } = gone
    let survivor = when === 'there' ? await witness(name, witnesses, ttlMs) : undefined
    const timing = { ttlMs, crashGraceMs: GRACE_MS }
    const connection = how === 'power loss' ? proxy.throughIt : server.url
    await worker.ask('crowd', { name, connection, listenConnection: false, sessions, memberships, ...timing })
    const before = await tableOf(admin, schema, name)
    const victims = before.members.filter(({ data }) => data !== 'witness').map(({ id }) => id)
    expect(victims).toHaveLength(sessions * memberships)
    await until(() => survivor === undefined || survivor.snapshot?.revision === before.revision, {
      message: 'all see all',
    })
    if (when === 'there') await heardSinceResumed(admin, name)
    if (sessions > 1) await turnsAreTaken(admin, name, sessions)

    let since = await now(admin)
    if (how === 'SIGKILL') await worker.kill()
    else if (how === 'SIGSTOP') worker.signal('SIGSTOP')
    else proxy.freeze()
    if (survivor === undefined) {
      const diedAt = since
      await until(
        async () => (since = await now(admin)) > diedAt + BigInt(when === 'comes late' ? 1_200 * ttlMs : 0),
        {
          message: 'time passes',
        },
      )
      expect((await tableOf(admin, schema, name)).members).toHaveLength(victims.length)
      survivor = await witness(name, witnesses, ttlMs)
    }
    await until(() => survivor.snapshot?.members.length === witnesses, {
      withinMs: 15_000,
      message: () => `${String(survivor.snapshot?.members.length)} are left`,
    })

    const left = (await eventsOf(admin, schema, name)).filter(({ kind }) => kind === 'left')
    expect(new Set(left.map(({ member }) => member))).toEqual(new Set(victims))
    expect(new Set(left.map(({ reason }) => reason))).toEqual(new Set([reason]))
    const lastMs = Number((left.at(-1)?.at ?? 0n) - since) / 1_000
    expect(lastMs, 'milliseconds to the last removal').toBeLessThan(boundMs)
    await expectWholeLog(admin, schema, name)
  },
)
