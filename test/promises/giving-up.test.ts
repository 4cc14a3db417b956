import type { Lease, Membership, PostgresCluster } from 'pg-membership'
import { expect, onTestFinished, test } from 'vitest'
import { Chance } from '../support/chance.js'
import { type AdminClient, databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { expectWholeLog, tableOf } from '../support/event-log.js'
import { isCallBlocked, pidOf, whenBlocked, whenCallBlocked } from '../support/locks.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import type { TcpProxy } from '../support/tcp-proxy.js'
import { until } from '../support/until.js'
import { sends } from '../support/wire.js'

const schema = await freshSchema()

interface Scene {
  readonly admin: AdminClient
  readonly locking: AdminClient
  readonly proxy: TcpProxy
  readonly name: string
  readonly cluster: PostgresCluster
  /** Stays, and has to be unharmed. */
  readonly other: Membership
}

async function scene(): Promise<Scene> {
  const [admin, locking, proxy, name] = [
    await openAdmin(),
    await openAdmin(),
    await openProxy(),
    uniqueName(),
  ]
  const cluster = openCluster({ schema, name, connection: proxy.throughIt, heartbeatMs: 200 })
  return { admin, locking, proxy, name, cluster, other: await joined(cluster, { data: 'other' }) }
}

async function remove({ admin }: Scene, { id }: Membership): Promise<void> {
  await admin.query(`delete from ${schema}.members where id = $1`, [id])
}

function loseAnswer({ proxy }: Scene): Promise<void> {
  const when = sends('register')
  return proxy.cutOnce({ direction: 'toClient', afterBytes: 0, when })
}

/** Takes the cluster's lock as soon as the member is gone, and calls back while the return waits for it. */
async function whileTheReturnWaits(
  its: Scene,
  membership: Membership,
  callback: () => Promise<void>,
): Promise<void> {
  const { admin, locking, name } = its
  const remover = await openAdmin()
  await remover.query('begin')
  await remover.query(`delete from ${schema}.members where id = $1`, [membership.id])
  const pid = await pidOf(locking)
  await locking.query('begin')
  const locked = locking.query(`select from ${schema}.clusters where name = $1 for update`, [name])
  await whenBlocked(admin, pid)
  await remover.query('commit')
  await locked
  await whenCallBlocked(admin, schema, 'register')
  await callback()
}

const aborted = (lease: Lease | undefined): Promise<unknown> =>
  new Promise((resolve) => lease?.signal.addEventListener('abort', resolve))

/** After this nothing that was under way is: the writer has had its turns, and so have heartbeats and reads. */
async function expectOutForGood({ admin, name, cluster, other }: Scene, hint: string): Promise<void> {
  const lease = other.lease
  for (let n = 0; n < 2; n++) {
    const guest = await joined(cluster)
    await guest.deregister()
    await cluster.getMembers({ fresh: true })
  }
  const ids = (await tableOf(admin, schema, name)).members.map(({ id }) => id)
  expect(ids, hint).toEqual([other.id])
  expect(
    cluster.snapshot?.members.map(({ id }) => id),
    hint,
  ).toEqual([other.id])
  expect(other.lease, hint).toBe(lease)
}

const stages: Record<string, (its: Scene, membership: Membership) => Promise<unknown>> = {
  'before the loss is known': async (its, membership) => {
    await remove(its, membership)
    await membership.deregister()
  },
  'in the turn in which the loss becomes known': async (its, membership) => {
    const left = aborted(membership.lease).then(() => membership.deregister())
    await remove(its, membership)
    await left
  },
  'while the return waits for a lock': (its, membership) =>
    whileTheReturnWaits(its, membership, async () => {
      const left = membership.deregister()
      await its.locking.query('commit')
      await left
    }),
  'while the return waits for a lock, and once more after a call to register': (its, membership) =>
    whileTheReturnWaits(its, membership, async () => {
      const left = [membership.deregister()]
      membership.register().catch(() => undefined)
      left.push(membership.deregister())
      await its.locking.query('commit')
      await Promise.all(left)
    }),
  'when the answer to the return has just been lost': async (its, membership) => {
    const lost = loseAnswer(its)
    await remove(its, membership)
    await lost
    await membership.deregister()
  },
  'while the answer to the return is being lost': async (its, membership) => {
    const lost = loseAnswer(its)
    await whileTheReturnWaits(its, membership, async () => {
      const left = membership.deregister()
      await its.locking.query('commit')
      await lost
      await left
    })
  },
  'while the database is away after the answer was lost': async (its, membership) => {
    const lost = loseAnswer(its)
    await remove(its, membership)
    await lost
    await its.proxy.cut()
    const left = membership.deregister()
    await its.proxy.restore()
    await left
  },
  'in the turn in which the lease is back': async (its, membership) => {
    const left = aborted(membership.lease)
      .then(() => membership.whenRegistered())
      .then(() => membership.deregister())
    await remove(its, membership)
    await left
  },
  'when it is back for all to see': async (its, membership) => {
    const lost = aborted(membership.lease)
    await remove(its, membership)
    await lost
    await membership.register()
    await membership.deregister()
  },
}

test.each(Object.entries(stages))(
  'promise 8: who deregisters %s is out, and stays out',
  async (stage, act) => {
    const its = await scene()
    for (let n = 0; n < 3; n++) {
      const membership = await joined(its.cluster)
      await act(its, membership)
      expect(membership.lease).toBeUndefined()
      await expectOutForGood(its, stage)
    }
    await expectWholeLog(its.admin, schema, its.name)
  },
)

test('promise 8: who deregisters at whatever moment of a return, over whatever network, is out and stays out', async () => {
  const its = await scene()
  const chance = new Chance(1)
  for (let round = 0; round < 8; round++) {
    const memberships = await Promise.all(Array.from({ length: 40 }, () => joined(its.cluster)))
    const ids = memberships.map(({ id }) => id)
    await its.admin.query(`delete from ${schema}.members where id = any ($1)`, [ids])
    if (round % 2 === 1) setTimeout(() => its.proxy.reset(), 20 * chance.next())
    await Promise.all(
      memberships.map(async (membership) => {
        await new Promise((resolve) => setTimeout(resolve, 25 * chance.next()))
        if (chance.next() < 0.3) membership.register().catch(() => undefined)
        await membership.deregister()
      }),
    )
    await expectOutForGood(its, `round ${round}`)
  }
  await expectWholeLog(its.admin, schema, its.name)
})

test('promise 8: a registration that was given up while its statement was lost on the way does not stay, however late it arrives', async () => {
  const its = await scene()
  const { admin, locking, proxy, name, cluster } = its
  // By itself it would end after a second.
  await admin.query(`alter function ${schema}.register set lock_timeout = 0`)
  onTestFinished(async () => {
    await admin.query(`alter function ${schema}.register set lock_timeout = '1s'`)
  })
  for (let n = 0; n < 3; n++) {
    await locking.query('begin')
    await locking.query(`select from ${schema}.clusters where name = $1 for update`, [name])
    const ghost = cluster.createMembership({ data: 'ghost' })
    ghost.register().catch(() => undefined)
    await whenCallBlocked(admin, schema, 'register')
    // The server would notice a reset within a second.
    proxy.abandon()
    await ghost.deregister()
    expect(cluster.snapshot?.get(ghost.id)).toBeUndefined()
    expect(await isCallBlocked(admin, schema, 'register')).toBe(true)
    const { revision } = await tableOf(admin, schema, name)
    await locking.query('commit')
    await until(async () => (await tableOf(admin, schema, name)).revision === revision + 2, {
      message: 'it comes, and goes',
    })
    await expectOutForGood(its, 'the ghost')
  }
  await expectWholeLog(admin, schema, name)
})

test('promise 8: who deregisters after the snapshot has shown what a lost answer left behind is out, and stays out', async () => {
  const [admin, writing, name] = [await openAdmin(), await openProxy(), uniqueName()]
  // Reads come first, and go straight there; what comes next is for writes.
  const ways = [databaseUrl()]
  const cluster = openCluster({
    schema,
    name,
    connection: () => Promise.resolve(ways.shift() ?? writing.throughIt),
    listenConnection: databaseUrl(),
    // Nothing but the call itself brings it about.
    ttlMs: 600_000,
  })
  await cluster.getMembers()
  await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
  const membership = cluster.createMembership({ data: 'left behind' })
  const when = sends('register')
  const lost = writing.cutOnce({ direction: 'toClient', afterBytes: 0, when })
  membership.register().catch(() => undefined)
  await lost
  await writing.cut()
  await until(() => cluster.snapshot?.get(membership.id), { message: 'a hint shows it' })
  const left = membership.deregister()
  await cluster.getMembers({ fresh: true })
  await writing.restore()
  await left
  expect(cluster.snapshot?.members).toEqual([])
  expect((await tableOf(admin, schema, name)).members).toEqual([])
})
