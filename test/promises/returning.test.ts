import diagnostics from 'node:diagnostics_channel'
import type { Lease, Membership, PostgresCluster } from 'pg-membership'
import { expect, onTestFinished, test } from 'vitest'
import { type AdminClient, databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { eventsOf, silence, storyOf, tableOf, typeMembers } from '../support/event-log.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import type { TcpProxy } from '../support/tcp-proxy.js'
import { until } from '../support/until.js'
import { firstTurnAfter, startWorker, type Worker } from '../support/worker.js'

const schema = await freshSchema()
const TTL_MS = 1_500

/** 'granted 1', 'ended 1 unreachable', 'granted 1': what became of each member's leases, in order. */
function leasesOf(name: string): (id: string) => readonly string[] {
  const leases = new Map<string, string[]>()
  const note = (message: unknown): void => {
    const { cluster, id, token, state, error } = message as Record<string, unknown>
    if (cluster !== name) return
    const reason = state === 'ended' ? ` ${(error as { reason: string }).reason}` : ''
    leases.set(String(id), [...(leases.get(String(id)) ?? []), `${String(state)} ${String(token)}${reason}`])
  }
  diagnostics.subscribe('pg-membership:lease', note)
  onTestFinished(() => void diagnostics.unsubscribe('pg-membership:lease', note))
  return (id) => leases.get(id) ?? []
}

interface Scene {
  readonly admin: AdminClient
  readonly proxy: TcpProxy
  readonly name: string
  /** Through the proxy; nobody else is there. */
  readonly cluster: PostgresCluster
  readonly memberships: readonly Membership[]
  readonly leases: readonly Lease[]
}

async function leasesEnd({ leases }: Scene): Promise<void> {
  await until(() => leases.every(({ signal }) => signal.aborted), { message: 'the leases end' })
}

async function removeAll({ admin, name }: Scene): Promise<void> {
  await admin.query(`delete from ${schema}.members where cluster = $1`, [name])
}

const faults: [what: string, reason: string, returns: string, act: (its: Scene) => Promise<void>][] = [
  [
    'an outage longer than the ttl',
    'unreachable',
    'the same',
    async (its) => {
      await its.proxy.cut()
      await leasesEnd(its)
      await its.proxy.restore()
    },
  ],
  [
    'a network that was frozen for longer than the ttl',
    'unreachable',
    'the same',
    async (its) => {
      its.proxy.freeze()
      await leasesEnd(its)
      its.proxy.thaw()
    },
  ],
  [
    'an outage in which everybody was removed',
    'unreachable',
    'another',
    async (its) => {
      await its.proxy.cut()
      await leasesEnd(its)
      await removeAll(its)
      await its.proxy.restore()
    },
  ],
  ["an administrator's DELETE", 'removed', 'another', removeAll],
  [
    "an administrator's DELETE during an outage shorter than the ttl",
    'removed',
    'another',
    async (its) => {
      await its.proxy.cut()
      await removeAll(its)
      await its.proxy.restore()
    },
  ],
]

test.each(faults)(
  'promise 8: after %s each lease has ended once, as %s, and everybody is back with %s token',
  async (_what, reason, returns, act) => {
    const [admin, proxy, name] = [await openAdmin(), await openProxy(), uniqueName()]
    const leasesOfMember = leasesOf(name)
    // Where the outage is shorter than the ttl, it is so on every machine.
    const ttlMs = reason === 'unreachable' ? TTL_MS : 30_000
    const cluster = openCluster({ schema, name, connection: proxy.throughIt, ttlMs })
    const memberships = await Promise.all(
      Array.from({ length: 5 }, (_, n) => joined(cluster, { data: `${n}` })),
    )
    const leases = await Promise.all(memberships.map((membership) => membership.register()))
    const aborts = new Map(leases.map((lease) => [lease, 0]))
    for (const lease of leases) {
      lease.signal.addEventListener('abort', () => aborts.set(lease, (aborts.get(lease) ?? 0) + 1))
    }
    const its = { admin, proxy, name, cluster, memberships, leases }
    await act(its)
    await until(() => leases.every(({ signal }) => signal.aborted), { message: 'all leases end' })
    const again = await Promise.all(memberships.map((membership) => membership.register()))
    expect([...aborts.values()]).toEqual(leases.map(() => 1))
    for (const [n, { id }] of memberships.entries()) {
      const [before = 0, after = 0] = [leases[n]?.token, again[n]?.token]
      expect(leasesOfMember(id)).toEqual([
        `granted ${before}`,
        `ended ${before} ${reason}`,
        `granted ${after}`,
      ])
      if (returns === 'the same') expect(after).toBe(before)
      else expect(after).toBeGreaterThan(before)
    }
    const { members } = await tableOf(admin, schema, name)
    expect(await cluster.getMembers()).toEqual(members)
    expect(new Set(members.map(({ id, data }) => `${id} ${data}`))).toEqual(
      new Set(memberships.map(({ id, data }) => `${id} ${data}`)),
    )
    const story = await storyOf(admin, schema, name)
    const joins = memberships.map(() => 'joined registered')
    if (returns === 'the same') expect(story).toEqual(joins)
    else expect(story).toEqual([...joins, ...memberships.map(() => 'left removed'), ...joins])
  },
)

test('promise 8: a member that is removed before its own process has seen it is missed by the first refresh', async () => {
  const [admin, reading, name] = [await openAdmin(), await openProxy(), uniqueName()]
  let connection = reading.throughIt
  const cluster = openCluster({
    schema,
    name,
    connection: () => Promise.resolve(connection),
    listenConnection: false,
    // No heartbeat and no poll finds out in its place.
    ttlMs: 600_000,
  })
  await cluster.getMembers()
  connection = databaseUrl()
  const membership = cluster.createMembership()
  reading.freeze()
  // Others were ahead: the answer to register alone does not show it.
  await typeMembers(admin, schema, name, ['other'])
  const registered = membership.register()
  const lease = await membership.whenRegistered()
  await admin.query(`delete from ${schema}.members where id = $1`, [membership.id])
  reading.thaw()
  await registered
  await until(() => lease.signal.aborted, { message: 'it is missed' })
  expect(lease.signal.reason).toMatchObject({ reason: 'removed' })
  expect((await membership.whenRegistered()).token).toBeGreaterThan(lease.token)
})

/** In a process of its own, with three members. */
async function threeMembers(
  name: string,
  ttlMs = TTL_MS,
): Promise<{ readonly worker: Worker; readonly tokens: number[] }> {
  const worker = await startWorker()
  await worker.ask('open', { connection: databaseUrl(), schema, name, ttlMs, heartbeatMs: 200 })
  const tokens: number[] = []
  for (let n = 0; n < 3; n++) tokens.push((await worker.ask('join', { data: `${n}` })).token)
  return { worker, tokens }
}

const pass = async (ms: number): Promise<void> => {
  const startedMs = performance.now()
  await until(() => performance.now() > startedMs + ms, { message: 'time passes' })
}

const nextTokens = (worker: Worker): Promise<number[]> =>
  Promise.all([0, 1, 2].map((n) => worker.ask('nextLease', n)))

/** For so long at least; `meanwhile` happens while it stands still. Returns whom it trusts in its first turn afterwards. */
type Stall = (worker: Worker, ms: number, meanwhile?: () => Promise<unknown>) => Promise<readonly boolean[]>

const stalls: Record<string, Stall> = {
  'was stopped': async (worker, ms, meanwhile) => {
    worker.signal('SIGSTOP')
    await Promise.all([pass(ms), meanwhile?.()])
    worker.signal('SIGCONT')
    return firstTurnAfter(worker, ms)
  },
  'had its event loop blocked': async (worker, ms, meanwhile) => {
    const blocked = worker.ask('block', ms)
    await until(() => worker.toldOf('blocking').length > 0, { message: 'it is blocked' })
    await meanwhile?.()
    await blocked
    return firstTurnAfter(worker, ms)
  },
}

test.each(Object.entries(stalls))(
  'promise 8: a process that %s for longer than the ttl, and whom nobody missed, ends each lease once and goes on as it was',
  async (_what, stall) => {
    const [admin, name] = [await openAdmin(), uniqueName()]
    const { worker, tokens } = await threeMembers(name)
    expect(await stall(worker, 1.2 * TTL_MS)).toEqual([false, false, false])
    expect(await nextTokens(worker)).toEqual(tokens)
    expect(worker.toldOf('lost').map(({ reason }) => reason)).toEqual(tokens.map(() => 'unreachable'))
    expect(await storyOf(admin, schema, name)).toEqual(tokens.map(() => 'joined registered'))
  },
)

test.each(Object.entries(stalls))(
  'promise 8: a process that %s for longer than the ttl, and was seen gone, ends each lease once and comes back as another',
  async (_what, stall) => {
    const [admin, name] = [await openAdmin(), uniqueName()]
    const observer = openCluster({ schema, name, ttlMs: TTL_MS })
    await observer.getMembers()
    const { worker, tokens } = await threeMembers(name)
    await until(() => observer.snapshot?.members.length === 3, { message: 'the observer sees it' })
    const ids = observer.snapshot?.members.map(({ id }) => id) ?? []
    const seenGone = async (): Promise<void> => {
      await until(
        async () => {
          await silence(admin, schema, name, ids)
          return observer.snapshot?.members.length === 0
        },
        { message: 'the observer sees it gone' },
      )
    }
    // The event loop must stand still until it is gone.
    expect(await stall(worker, 3 * TTL_MS, seenGone)).toEqual([false, false, false])
    const next = await nextTokens(worker)
    for (const [n, token] of next.entries()) expect(token).toBeGreaterThan(tokens[n] ?? 0)
    expect(worker.toldOf('lost').map(({ reason }) => reason)).toEqual(tokens.map(() => 'unreachable'))
    const events = await eventsOf(admin, schema, name)
    for (const { id } of (await tableOf(admin, schema, name)).members) {
      const mine = events.filter(({ member }) => member === id)
      expect(mine.map(({ reason }) => reason)).toEqual(['registered', 'expired', 'registered'])
    }
  },
)

test.each(Object.entries(stalls))(
  'promises 7 and 8: a process that %s for less than its ttl loses nothing',
  async (_what, stall) => {
    const [admin, name] = [await openAdmin(), uniqueName()]
    // More than its grace, and far less than a lease can take: a busy machine adds to it.
    const ttlMs = 4 * TTL_MS
    const observer = openCluster({ schema, name, ttlMs })
    await observer.getMembers()
    const { worker, tokens } = await threeMembers(name, ttlMs)
    expect(await stall(worker, TTL_MS)).toEqual([true, true, true])
    expect(await nextTokens(worker)).toEqual(tokens)
    expect(worker.toldOf('lost')).toEqual([])
    expect(await storyOf(admin, schema, name)).toEqual(tokens.map(() => 'joined registered'))
  },
)
