import diagnostics from 'node:diagnostics_channel'
import pg from 'pg'
import type { PostgresCluster, PostgresClusterOptions } from 'pg-membership'
import { expect, onTestFinished, test } from 'vitest'
import { type AdminClient, databaseUrl, freshSchema, uniqueName } from './support/database.js'
import { eventsOf, silence } from './support/event-log.js'
import { pidOf, whenBlocked } from './support/locks.js'
import { joined, openAdmin, openCluster, openProxy } from './support/opened.js'
import { size } from './support/size.js'
import { until } from './support/until.js'
import { sends } from './support/wire.js'
import { startWorker, type Worker } from './support/worker.js'

const schema = await freshSchema()

interface Registered {
  readonly id: string
  readonly token: number
  readonly name: string
  readonly cluster: PostgresCluster
}

async function registered(): Promise<Registered> {
  const name = uniqueName()
  const cluster = openCluster({ schema, name })
  const membership = await joined(cluster, { onLost: 'stay-out' })
  return { id: membership.id, token: membership.lease?.token ?? 0, name, cluster }
}

function fence(client: AdminClient, { id, token }: Registered): Promise<unknown> {
  return client.query(`select ${schema}.fence($1::uuid, $2::bigint)`, [id, token])
}

test('contract: a membership is fenced by a client in a transaction, not by a pool, and not in autocommit', async () => {
  const membership = await joined(openCluster({ schema, name: uniqueName() }))
  const client = await openAdmin()
  const pool = new pg.Pool({ connectionString: databaseUrl() })
  onTestFinished(() => pool.end())
  await expect(membership.fence(pool)).rejects.toThrow('not a pool')
  await expect(membership.fence(pool)).rejects.toThrow(TypeError)
  expect(pool.totalCount, 'the pool was not even asked').toBe(0)
  await expect(membership.fence(client)).rejects.toThrow('outside a transaction')
  // Not waited for, as it is sent in order all the same.
  const begun = client.query('begin')
  await membership.fence(client)
  await begun
  expect((await client.query('commit')).command).toBe('COMMIT')
})

async function remove(admin: AdminClient, { id }: Registered): Promise<void> {
  await admin.query(`delete from ${schema}.members where id = $1`, [id])
}

test('promise 13: a deregister by others leaves a fenced registration alone, and does not wait for long', async () => {
  const member = await registered()
  const [fencing, other] = [await openAdmin(), await openAdmin()]
  await fencing.query('begin')
  await fence(fencing, member)
  const deregister = (): Promise<unknown> =>
    other.query(`select ${schema}.deregister($1, $2, $3)`, [member.name, [member.id], [member.token]])
  const startedMs = performance.now()
  await deregister().catch(() => undefined)
  expect(performance.now() - startedMs).toBeLessThan(5_000)
  expect(await member.cluster.getMembers({ fresh: true })).toHaveLength(1)
  await fencing.query('commit')
  await deregister()
  expect(await member.cluster.getMembers({ fresh: true })).toEqual([])
})

test('promise 13: a removal that waited for a fenced transaction happens after it; a second fence comes too late', async () => {
  const member = await registered()
  const [fencing, other, late] = [await openAdmin(), await openAdmin(), await openAdmin()]
  await fencing.query('begin')
  await fence(fencing, member)
  const pid = await pidOf(other)
  const removed = remove(other, member)
  await whenBlocked(late, pid)
  await fencing.query('commit')
  await removed
  await late.query('begin')
  await expect(fence(late, member)).rejects.toMatchObject({ code: 'MB001' })
  // A transaction that goes on after the refusal is rolled back by PostgreSQL itself.
  expect((await late.query('commit')).command).toBe('ROLLBACK')
})

test('promise 13: a fence that waited for a removal under way is refused when that commits', async () => {
  const member = await registered()
  const [removing, fencing, admin] = [await openAdmin(), await openAdmin(), await openAdmin()]
  const pid = await pidOf(fencing)
  await removing.query('begin')
  await remove(removing, member)
  await fencing.query('begin')
  const refused = expect(fence(fencing, member)).rejects.toMatchObject({ code: 'MB001' })
  await whenBlocked(admin, pid)
  await removing.query('commit')
  await refused
})

test('promise 13: a fence waits for a lock for a bounded time', async () => {
  const member = await registered()
  const [locking, fencing] = [await openAdmin(), await openAdmin()]
  await locking.query('begin')
  await locking.query(`select from ${schema}.members where id = $1 for update`, [member.id])
  const startedMs = performance.now()
  await expect(fence(fencing, member)).rejects.toMatchObject({ code: '55P03' })
  expect(performance.now() - startedMs).toBeLessThan(5_000)
  await locking.query('rollback')
  await fence(fencing, member)
})

test('promise 13: heartbeats and data are not held up by a fence', async () => {
  const name = uniqueName()
  const cluster = openCluster({ schema, name, ttlMs: 2_000, heartbeatMs: 100 })
  const membership = await joined(cluster)
  const [fencing, admin] = [await openAdmin(), await openAdmin()]
  await fencing.query('begin')
  await membership.fence(fencing)
  const heartbeatAt = async (): Promise<number> => {
    const { rows } = await admin.query<{ heartbeat_at: Date }>(
      `select heartbeat_at from ${schema}.members where id = $1`,
      [membership.id],
    )
    return rows[0]?.heartbeat_at.getTime() ?? 0
  }
  for (let n = 0; n < 3; n++) {
    const before = await heartbeatAt()
    await until(async () => (await heartbeatAt()) > before, { message: 'a heartbeat gets through' })
  }
  await membership.setData('changed')
  expect(cluster.snapshot?.members[0]?.data).toBe('changed')
  expect((await fencing.query('commit')).command).toBe('COMMIT')
})

test('promise 13: many transactions are fenced by one registration at the same time', async () => {
  const member = await registered()
  const clients = await Promise.all(Array.from({ length: 5 }, () => openAdmin()))
  for (const client of clients) {
    await client.query('begin')
    await fence(client, member)
  }
  for (const client of clients) expect((await client.query('commit')).command).toBe('COMMIT')
})

test('promise 13: a fence resolves whatever the types of its parameters are', async () => {
  const member = await registered()
  const client = await openAdmin()
  const parameters = [member.id, String(member.token)]
  for (const id of ['$1', '$1::uuid', '$1::text', '$1::varchar']) {
    for (const token of ['$2', '$2::bigint', '$2::text', '$2::integer']) {
      await client.query(`select ${schema}.fence(${id}, ${token})`, parameters)
      const older = client.query(`select ${schema}.fence(${id}, ${token})`, [member.id, '0'])
      await expect(older, `fence(${id}, ${token})`).rejects.toMatchObject({ code: 'MB001' })
    }
  }
  await client.query(`select ${schema}.fence('${member.id}', ${member.token})`)
  await client.query(`select ${schema}.fence('${member.id}', '${member.token}')`)
  // As bound by drivers that send numbers as they are.
  await client.query(`select ${schema}.fence($1, $2)`, [member.id, member.token])
})

test('promise 13: a fence is released by a rollback to a savepoint, therefore it belongs outside of them', async () => {
  const member = await registered()
  const [fencing, other] = [await openAdmin(), await openAdmin()]
  await other.query(`set lock_timeout = '100ms'`)
  await fencing.query('begin')
  await fencing.query('savepoint inner_one')
  await fence(fencing, member)
  await expect(remove(other, member)).rejects.toMatchObject({ code: '55P03' })
  await fencing.query('rollback to savepoint inner_one')
  // Its commit may have to wait for others of this server, who notify.
  await other.query('reset lock_timeout')
  await remove(other, member)
  await fencing.query('rollback')
})

test('promise 13: a registration that has expired is refused before anybody has swept it', async () => {
  const member = await registered()
  const admin = await openAdmin()
  // In a transaction of which the member's own heartbeat sees nothing.
  await admin.query('begin')
  await silence(admin, schema, member.name, [member.id])
  await expect(fence(admin, member)).rejects.toMatchObject({ code: 'MB001' })
  await admin.query('rollback')
  await fence(admin, member)
})

test('promise 13: a registration removed after a transaction took its view of the database never lets it commit', async () => {
  for (const isolation of ['repeatable read', 'serializable']) {
    const member = await registered()
    const [fencing, other] = [await openAdmin(), await openAdmin()]
    await fencing.query(`begin isolation level ${isolation}`)
    await fencing.query(`select from ${schema}.members`)
    await remove(other, member)
    await expect(fence(fencing, member)).rejects.toMatchObject({
      code: expect.stringMatching(/^(40001|MB001)$/) as string,
    })
    expect((await fencing.query('commit')).command).toBe('ROLLBACK')
  }
})

test('promise 16: in the moment of an automatic return, the fence is not that of a registration which its own snapshot does not show yet', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  const proxy = await openProxy()
  const quiet = { schema, name, listenConnection: false as const, pollMs: 600_000 }
  // What reads and beats goes through the proxy, what writes does not.
  const ways = [proxy.throughIt]
  const connection = (): Promise<string> => Promise.resolve(ways.shift() ?? databaseUrl())
  // The longest bound of a query: the return has to come before the frozen connection is given up.
  const cluster = openCluster({ ...quiet, connection, ttlMs: 20_000, heartbeatMs: 200 })
  await cluster.getMembers()
  const leader = await joined(cluster)
  await joined(openCluster(quiet))
  await cluster.getMembers({ fresh: true })
  const first = cluster.snapshot?.members[0]
  expect(first?.id).toBe(leader.id)
  // A heartbeat that was under way may have told an older position, and asked for one more refresh.
  let beats = 0
  const beaten = (): number => (beats += 1)
  diagnostics.subscribe('pg-membership:heartbeat', beaten)
  await until(() => beats >= 3, { message: 'heartbeats that tell no news' })
  diagnostics.unsubscribe('pg-membership:heartbeat', beaten)

  const fenced: unknown[] = []
  const shown: unknown[] = []
  const note = (message: unknown): void => {
    const { id, state } = message as { id: string; state: string }
    if (id !== leader.id || state !== 'granted') return
    // As an application would that acts because members[0] is its own.
    const present = cluster.snapshot?.members[0]
    if (present?.id !== leader.id) return
    shown.push([present.id, present.token])
    void leader.fence({
      query: (_text, values) => {
        fenced.push(values)
        return Promise.resolve()
      },
    })
  }
  diagnostics.subscribe('pg-membership:lease', note)
  onTestFinished(() => void diagnostics.unsubscribe('pg-membership:lease', note))
  // The loss gets through, the refresh that follows does not: the return is quicker.
  void proxy.cutOnce({
    direction: 'toServer',
    afterBytes: 0,
    when: ({ sent }) => {
      if (sends('changes')({ sent })) proxy.freeze({ direction: 'toClient' })
      return false
    },
  })
  await admin.query(`delete from ${schema}.members where id = $1`, [leader.id])
  await until(() => shown.length > 0, { message: 'the return, before its own view shows it' })
  proxy.thaw()
  const { token } = await until(() => (leader.lease?.token === first?.token ? undefined : leader.lease), {
    message: 'the automatic return',
  })
  expect(token).toBeGreaterThan(first?.token ?? 0)
  expect(shown, 'its own view was behind at that moment').toEqual([[leader.id, first?.token]])
  expect(fenced).toEqual(shown)
})

test('promises 13 and 16: leaders that are stopped, expired and removed midway leave a counter whose every row is accounted for', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  const table = `${schema}.ledger`
  await admin.query(`create table ${table} (
    n bigint, token bigint, worker integer, at timestamptz default clock_timestamp())`)
  await admin.query(`create table ${table}_counter (n bigint)`)
  await admin.query(`insert into ${table}_counter values (0)`)

  const options: PostgresClusterOptions = { connection: databaseUrl(), schema, name, ttlMs: 1_000 }
  const workers = new Map<string, Worker>()
  const start = async (): Promise<void> => {
    const worker = await startWorker()
    await worker.ask('open', options)
    await worker.ask('follow')
    workers.set((await worker.ask('join', {})).id, worker)
    await worker.ask('lead', { url: databaseUrl(), schema, table })
  }
  await Promise.all([start(), start()])
  const observer = openCluster(options)
  const leader = async (): Promise<{ id: string; token: number }> => {
    const [first] = await observer.getMembers({ fresh: true })
    if (!first) throw new Error('nobody leads')
    return first
  }
  const committedBy = async (token: number): Promise<number> => {
    const { rows } = await admin.query<{ rows: string }>(
      `select count(*) as rows from ${table} where token = $1`,
      [token],
    )
    return Number(rows[0]?.rows)
  }

  const takeovers = ['remove', 'stop', 'expire', 'remove', 'stop', 'expire', 'remove'] as const
  for (const takeover of takeovers.slice(0, size(7, 4))) {
    const { id, token } = await until(leader, { message: 'somebody leads' })
    const enough = 5 + (token % 7)
    await until(async () => (await committedBy(token)) >= enough, { message: `${token} has acted` })
    const worker = workers.get(id)
    const gone = async (): Promise<boolean> => (await leader()).token > token
    if (takeover === 'remove') {
      await admin.query(`delete from ${schema}.members where id = $1`, [id])
    } else if (takeover === 'expire') {
      // Again and again: its own heartbeats contradict.
      await until(
        async () => {
          await admin.query('begin')
          await silence(admin, schema, name, [id])
          await admin.query(`select ${schema}.sweep($1)`, [name])
          await admin.query('commit')
          return gone()
        },
        { message: `${token} expires` },
      )
    } else {
      worker?.signal('SIGSTOP')
      // Stopped inside a transaction it keeps its registration until it goes on.
      await until(gone, { withinMs: 4_000, message: `${token} expires` }).catch(() => undefined)
      worker?.signal('SIGCONT')
    }
    await until(
      async () => {
        const next = await leader()
        return (next.token > token || takeover === 'stop') && (await committedBy(next.token)) > 0
      },
      { message: `somebody acts after ${token}` },
    )
  }
  for (const worker of workers.values()) await worker.ask('rest')
  const events = await eventsOf(admin, schema, name)
  for (const worker of workers.values()) await worker.ask('close')

  const { rows } = await admin.query<{ n: string; token: string; at: string; worker: number }>(
    `select n, token, worker, (extract(epoch from at) * 1000000)::bigint::text as at from ${table} order by n, at`,
  )
  const committed = [...workers.values()].flatMap((worker) => worker.toldOf('committed').map(({ n }) => n))
  expect(committed.toSorted((a, b) => a - b)).toEqual(rows.map(({ n }) => Number(n)))
  expect(rows.map(({ n }) => Number(n))).toEqual(rows.map((_, n) => n + 1))
  const tokens = rows.map(({ token }) => Number(token))
  expect(tokens, 'no two leaders act side by side').toEqual(tokens.toSorted((a, b) => a - b))
  expect(new Set(tokens).size).toBeGreaterThan(size(4, 2))
  const joins = new Map(events.filter(({ kind }) => kind === 'joined').map((event) => [event.token, event]))
  const leaves = new Map(events.filter(({ kind }) => kind === 'left').map((event) => [event.token, event]))
  for (const { n, token, at, worker } of rows) {
    const join = joins.get(Number(token))
    const leave = leaves.get(Number(token))
    expect(workers.get(join?.member ?? '')?.pid, `row ${n} was written by who had the token`).toBe(worker)
    if (leave && BigInt(at) >= leave.at) expect.fail(`row ${n} was written after ${token} was removed`)
  }
  for (const worker of workers.values()) {
    expect(worker.toldOf('uncaught')).toEqual([])
    expect(worker.toldOf('trouble')).toEqual([])
  }
}, 60_000)
