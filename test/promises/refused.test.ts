import diagnostics from 'node:diagnostics_channel'
import { writeFileSync } from 'node:fs'
import pg from 'pg'
import {
  ConnectionError,
  migrate,
  type PostgresCluster,
  type PostgresClusterOptions,
  SchemaError,
} from 'pg-membership'
import { afterAll, expect, onTestFinished, test } from 'vitest'
import { pgMembership } from '../support/command-line.js'
import { type AdminClient, adminClient, databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { eventsOf, expectWholeLog, tableOf, typeMembers } from '../support/event-log.js'
import { elapsed } from '../support/fleet.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import { startPostgres } from '../support/postgres-server.js'
import { until } from '../support/until.js'
import { sends } from '../support/wire.js'
import { startWorker } from '../support/worker.js'

const schema = await freshSchema()
const role = uniqueName('app')
const owner = await adminClient()
await owner.query(`create role ${pg.escapeIdentifier(role)} login password 'p'`)
await owner.query((await pgMembership(['sql', '--schema', schema, '--grants', `member=${role}`])).stdout)
afterAll(async () => {
  await owner.query(`drop owned by ${pg.escapeIdentifier(role)}; drop role ${pg.escapeIdentifier(role)}`)
  await owner.end()
})

/** From when an error has passed: a retry at its slowest pace, and a busy machine. */
const RETURN_MS = 4_000

function asRole(url = databaseUrl()): string {
  const result = new URL(url)
  result.username = role
  result.password = 'p'
  return result.href
}

/** May the role read, or execute a function? What is taken away is given back after the test. */
async function allow(admin: AdminClient, what: string, allowed: boolean): Promise<void> {
  const [verb, preposition] = allowed ? ['grant', 'to'] : ['revoke', 'from']
  const { rows } = await admin.query<{ object: string }>(
    `select 'execute on function ' || oid::regprocedure as object from pg_proc
     where pronamespace = $1::regnamespace and proname = $2`,
    [schema, what],
  )
  const objects =
    what === 'read' ? [`select on all tables in schema ${schema}`] : rows.map((row) => row.object)
  expect(objects.length).toBeGreaterThan(0)
  for (const object of objects)
    await admin.query(`${verb} ${object} ${preposition} ${pg.escapeIdentifier(role)}`)
  if (!allowed) onTestFinished(() => allow(owner, what, true))
}

/** Resolves at a failure of this kind that comes after the call. */
function failure(cluster: PostgresCluster, doing: string): Promise<Error> {
  return new Promise((resolve) => {
    const note = (message: unknown): void => {
      const told = message as { readonly cluster: string; readonly doing: string; readonly error: Error }
      if (told.cluster === cluster.name && told.doing === doing) resolve(told.error)
    }
    diagnostics.subscribe('pg-membership:error', note)
    onTestFinished(() => void diagnostics.unsubscribe('pg-membership:error', note))
  })
}

async function within<T>(ms: number, promise: Promise<T>, message: string): Promise<T> {
  let result: { readonly value: T } | undefined
  let error: unknown
  promise.then(
    (value) => (result = { value }),
    (reason: unknown) => (error = reason),
  )
  await until(() => result ?? error, { withinMs: ms, message })
  if (result === undefined) throw error
  return result.value
}

test('promise 1: a refusal to read rejects register where its answer alone does not show it, which leaves nothing registered, and the next one works', async () => {
  const [admin, name] = [await openAdmin(), uniqueName()]
  const cluster = openCluster({ schema, name, connection: asRole(), listenConnection: false })
  await cluster.getMembers()
  await allow(admin, 'read', false)
  // Others were ahead: the answer to register alone does not show it.
  await typeMembers(admin, schema, name, ['other'])
  const membership = cluster.createMembership()
  await expect(within(3_000, membership.register(), 'register is rejected')).rejects.toThrow(SchemaError)
  await until(async () => (await tableOf(admin, schema, name)).members.length === 1, {
    message: 'nothing stays registered',
  })
  expect(membership.lease).toBeUndefined()
  await expect(cluster.getMembers({ fresh: true })).rejects.toThrow(SchemaError)
  await allow(admin, 'read', true)
  const lease = await membership.register()
  expect(cluster.snapshot?.members).toMatchObject([
    { data: 'other' },
    { id: membership.id, token: lease.token },
  ])
})

test('promise 1: a refusal to read rejects setData and deregister where their answers alone do not show them, ends no lease, and passes', async () => {
  const [admin, name] = [await openAdmin(), uniqueName()]
  const options = { connection: asRole(), listenConnection: false, heartbeatMs: 200, pollMs: 200 } as const
  const cluster = openCluster({ schema, name, ...options })
  const membership = await joined(cluster)
  const leaving = await joined(cluster)
  const lease = membership.lease
  await allow(admin, 'read', false)
  await membership.setData('at once')
  await typeMembers(admin, schema, name, ['other'])
  await expect(within(3_000, membership.setData('new'), 'setData is rejected')).rejects.toThrow(SchemaError)
  await expect(within(3_000, leaving.deregister(), 'deregister is rejected')).rejects.toThrow(SchemaError)
  const left = [{ id: membership.id, data: 'new' }, { data: 'other' }]
  expect((await tableOf(admin, schema, name)).members).toMatchObject(left)
  await allow(admin, 'read', true)
  await until(() => cluster.snapshot?.members.at(-1)?.data === 'other', {
    withinMs: RETURN_MS,
    message: 'it reads again',
  })
  await membership.setData('new')
  await leaving.deregister()
  expect(cluster.snapshot?.members).toMatchObject(left)
  expect(membership.lease).toBe(lease)
  await membership.setData('newer')
  expect(cluster.snapshot?.get(membership.id)?.data).toBe('newer')
  await expectWholeLog(admin, schema, name)
})

test('promise 8: who was removed while register was refused for a moment comes back by itself', async () => {
  const [admin, name] = [await openAdmin(), uniqueName()]
  const cluster = openCluster({ schema, name, connection: asRole(), heartbeatMs: 200 })
  const membership = await joined(cluster)
  const lease = membership.lease
  await allow(admin, 'register', false)
  const refused = failure(cluster, 'write')
  await admin.query(`delete from ${schema}.members where id = $1`, [membership.id])
  expect(await refused).toBeInstanceOf(SchemaError)
  // What is asked meanwhile is told, and changes nothing about what is wanted.
  await Promise.all(
    [membership.register(), membership.setData('changed')].map((call: Promise<unknown>) =>
      expect(within(3_000, call, 'it is told')).rejects.toThrow(SchemaError),
    ),
  )
  await allow(admin, 'register', true)
  const next = await within(RETURN_MS, membership.whenRegistered(), 'it is back')
  expect(next.token).toBeGreaterThan(lease?.token ?? Infinity)
  await cluster.getMembers({ fresh: true })
  expect(cluster.snapshot?.members).toMatchObject([{ id: membership.id, data: 'changed' }])
})

test('promise 8: who was never registered gives up when register is refused, and does not hold up the others', async () => {
  const [admin, name] = [await openAdmin(), uniqueName()]
  const cluster = openCluster({ schema, name, connection: asRole(), heartbeatMs: 200 })
  const [lost, other] = [await joined(cluster, { data: 'lost' }), await joined(cluster, { data: 'other' })]
  await allow(admin, 'register', false)
  const refused = failure(cluster, 'write')
  await admin.query(`delete from ${schema}.members where id = $1`, [lost.id])
  await refused
  const never = cluster.createMembership({ data: 'never' })
  await expect(never.register()).rejects.toThrow(SchemaError)
  // These are granted.
  await within(3_000, other.setData('changed'), 'its data changes')
  await allow(admin, 'register', true)
  await within(RETURN_MS, lost.whenRegistered(), 'it is back')
  await joined(cluster, { data: 'last' })
  const { members } = await tableOf(admin, schema, name)
  expect(members.map(({ data }) => data)).toEqual(['changed', 'lost', 'last'])
})

test('promise 8: what the database refuses of one membership does not refuse those in the same statement', async () => {
  const [admin, name] = [await openAdmin(), uniqueName()]
  await admin.query(`alter table ${schema}.members add constraint of_test check (data <> 'bad')`)
  onTestFinished(async () => {
    await owner.query(`alter table ${schema}.members drop constraint of_test`)
  })
  const cluster = openCluster({ schema, name, connection: asRole() })
  const memberships = ['one', 'bad', 'two'].map((data) => cluster.createMembership({ data }))
  const outcomes = await Promise.allSettled(memberships.map((membership) => membership.register()))
  expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
  const changes = await Promise.allSettled(
    [0, 2].map(async (n) => memberships[n]?.setData(n === 0 ? 'bad' : 'changed')),
  )
  expect(changes.map(({ status }) => status)).toEqual(['rejected', 'fulfilled'])
  expect((await tableOf(admin, schema, name)).members.map(({ data }) => data)).toEqual(['one', 'changed'])
})

test('promise 8: a return that is refused when the cluster closes keeps nobody from leaving', async () => {
  const [admin, proxy, name] = [await openAdmin(), await openProxy(), uniqueName()]
  const connection = asRole(proxy.throughIt)
  const cluster = openCluster({ schema, name, connection, heartbeatMs: 200, closeTimeoutMs: 5_000 })
  const [lost, other] = [await joined(cluster), await joined(cluster)]
  await allow(admin, 'register', false)
  // The next attempt begins before this one's answer is old.
  proxy.delay(50)
  const refused = failure(cluster, 'write')
  await admin.query(`delete from ${schema}.members where id = $1`, [lost.id])
  await refused
  await elapsed(performance.now(), 50)
  await cluster.close()
  expect((await eventsOf(admin, schema, name)).at(-1)).toMatchObject({
    member: other.id,
    reason: 'deregistered',
  })
})

test('promise 11: close does not wait until a refusal to deregister has passed', async () => {
  const [admin, name] = [await openAdmin(), uniqueName()]
  const cluster = openCluster({ schema, name, connection: asRole(), closeTimeoutMs: 10_000 })
  await joined(cluster)
  await allow(admin, 'deregister', false)
  await within(3_000, cluster.close(), 'it is closed')
})

test('promise 8: heartbeats that were refused for longer than the ttl begin again by themselves', async () => {
  const [admin, name] = [await openAdmin(), uniqueName()]
  const cluster = openCluster({ schema, name, connection: asRole(), ttlMs: 1_000, heartbeatMs: 200 })
  const membership = await joined(cluster)
  const lease = membership.lease
  await allow(admin, 'heartbeat', false)
  await until(() => lease?.signal.aborted, { message: 'the lease ends' })
  await admin.query(`delete from ${schema}.members where id = $1`, [membership.id])
  await allow(admin, 'heartbeat', true)
  await within(RETURN_MS, membership.whenRegistered(), 'it is back')
  expect((await tableOf(admin, schema, name)).members.map(({ id }) => id)).toEqual([membership.id])
})

test('promise 6: a crash is seen soon after sweeping, which was refused for a moment, is granted again', async () => {
  const [admin, name] = [await openAdmin(), uniqueName()]
  const cluster = openCluster({ schema, name, connection: asRole(), ttlMs: 60_000 })
  const witness = await joined(cluster)
  const worker = await startWorker()
  await worker.ask('open', { connection: asRole(), schema, name, ttlMs: 60_000, heartbeatMs: 200 })
  const { id } = await worker.ask('join', {})
  await until(() => cluster.snapshot?.get(id), { message: 'the witness sees it' })
  await until(
    async () =>
      (await admin.query(`select from ${schema}.sweeps where cluster = $1 and swept_at > resumed_at`, [name]))
        .rowCount,
    { message: 'sweeps go on' },
  )
  // Heard since sweeping began.
  await admin.query(
    `update ${schema}.sweeps set resumed_at = resumed_at - interval '1 hour' where cluster = $1`,
    [name],
  )
  for (const what of ['sweep', 'sweep_idle']) await allow(admin, what, false)
  expect(await failure(cluster, 'sweep')).toBeInstanceOf(SchemaError)
  await worker.kill()
  // Not at the first attempt only.
  await within(RETURN_MS, failure(cluster, 'sweep'), 'it tries again')
  for (const what of ['sweep', 'sweep_idle']) await allow(admin, what, true)
  await until(() => cluster.snapshot?.get(id) === undefined, { withinMs: RETURN_MS, message: 'it is seen' })
  expect(witness.lease).toBeDefined()
  expect((await eventsOf(admin, schema, name)).at(-1)).toMatchObject({ member: id, reason: 'crashed' })
})

interface Trouble {
  readonly connection: PostgresClusterOptions['connection']
  /** No new connection can be made. */
  begin(): Promise<unknown>
  end(): Promise<unknown>
}

function failingWith(error: Error): (url: string) => Promise<Trouble> {
  return async (url) => {
    let failing = false
    const set = (yes: boolean) => (): Promise<unknown> => Promise.resolve((failing = yes))
    const connection = (): Promise<string> => (failing ? Promise.reject(error) : Promise.resolve(url))
    return Promise.resolve({ connection, begin: set(true), end: set(false) })
  }
}

/** The server asks for passwords, and the application's is changed. */
async function changedPassword(url: string): Promise<Trouble> {
  const admin = await openAdmin(server.url)
  await admin.query(`create role app login superuser password 'right'`)
  const { rows } = await admin.query<{ hba_file: string }>('show hba_file')
  const rules = ['postgres 127.0.0.1/32 trust', 'app 127.0.0.1/32 scram-sha-256']
  writeFileSync(rows[0]?.hba_file ?? '', rules.map((rule) => `host all ${rule}\n`).join(''))
  await admin.query('select pg_reload_conf()')
  const connection = new URL(url)
  connection.username = 'app'
  connection.password = 'right'
  const set = (password: string) => () => admin.query(`alter role app password '${password}'`)
  return { connection: connection.href, begin: set('wrong'), end: set('right') }
}

const passing: Record<string, (url: string) => Promise<Trouble>> = {
  'its host is not found': failingWith(
    Object.assign(new Error('getaddrinfo ENOTFOUND'), { code: 'ENOTFOUND' }),
  ),
  'the certificate has expired': failingWith(
    Object.assign(new Error('certificate has expired'), { code: 'CERT_HAS_EXPIRED' }),
  ),
  'its password is another': changedPassword,
}

const server = await startPostgres({ fsync: false })
afterAll(() => server[Symbol.asyncDispose]())
await migrate({ connection: server.url })

test.each(Object.entries(passing))(
  'promises 2 and 8: who is lost while %s comes back by itself as soon as that has passed, and so does its snapshot',
  async (_what, bringAbout) => {
    const [admin, proxy, name] = [await openAdmin(server.url), await openProxy(server.url), uniqueName()]
    const trouble = await bringAbout(proxy.throughIt)
    const cluster = openCluster({ name, connection: trouble.connection, ttlMs: 2_000, heartbeatMs: 200 })
    const membership = await joined(cluster)
    const lease = membership.lease
    await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
    await trouble.begin()
    // The loss becomes known before the last connection breaks.
    const written = failure(cluster, 'write')
    const cut = proxy.cutOnce({
      direction: 'toServer',
      afterBytes: 0,
      when: sends('register'),
    })
    await admin.query('delete from pgmembership.members where id = $1', [membership.id])
    await cut
    await written
    await until(() => cluster.status.lastError instanceof ConnectionError, { message: 'it is told' })
    const listening = failure(cluster, 'listen')
    proxy.reset()
    await listening
    await expect(within(RETURN_MS, membership.register(), 'it is told')).rejects.toThrow(ConnectionError)
    const read = cluster.getMembers({ fresh: true })
    await expect(within(RETURN_MS, read, 'it is told')).rejects.toThrow(ConnectionError)
    const { id } = await joined(openCluster({ name, connection: server.url }))
    await trouble.end()
    const next = await within(RETURN_MS, membership.whenRegistered(), 'it is back')
    expect(next.token).toBeGreaterThan(lease?.token ?? Infinity)
    await until(
      () => {
        const { members } = cluster.snapshot ?? {}
        return members?.length === 2 && members.some((member) => member.id === id)
      },
      { withinMs: RETURN_MS, message: 'its snapshot is right' },
    )
    await until(() => cluster.status.mode === 'listening', {
      withinMs: RETURN_MS,
      message: 'it listens again',
    })
  },
)
