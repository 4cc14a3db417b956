/** Evictions, and what others do at the same time. */
import { randomUUID } from 'node:crypto'
import { type Membership, MembershipLostError, type PostgresCluster } from 'pg-membership'
import { beforeAll, expect, test } from 'vitest'
import { type AdminClient, uniqueName } from '../support/database.js'
import { expectWholeLog, tableOf, typeMembers } from '../support/event-log.js'
import { pidOf, whenBlocked } from '../support/locks.js'
import { joined, openAdmin, openCluster } from '../support/opened.js'
import { startRoles } from '../support/roles.js'
import { until } from '../support/until.js'

const { schema, nameOf, as } = await startRoles()
const ops = nameOf.operator
const HEARTBEAT_MS = 200

let admin: AdminClient
let operator: AdminClient
beforeAll(async () => {
  operator = await as('operator')
  admin = await as('owner')
  return () => Promise.all([operator.end(), admin.end()])
})

function open(name: string): PostgresCluster {
  return openCluster({ schema, name, ttlMs: 10_000, heartbeatMs: HEARTBEAT_MS })
}

/** Calls evict, drain or allow, as the operator. */
async function call(name: string, ...args: unknown[]): Promise<unknown> {
  const parameters = args.map((_, n) => `$${n + 1}`).join(', ')
  const { rows } = await operator.query<{ said: unknown }>(`select ${name}(${parameters}) as said`, args)
  return rows[0]?.said
}

/** Who left, as the log tells it. */
async function departures(cluster: string): Promise<object[]> {
  const { rows } = await admin.query<object>(
    `select reason, member, by_role, note from changes where cluster = $1 and kind = 'left' order by revision`,
    [cluster],
  )
  return rows
}

/** What register answers for one id. */
async function register(
  client: AdminClient,
  cluster: string,
  id: string,
  { floor = 0, ago = null }: { readonly floor?: number; readonly ago?: string | null } = {},
): Promise<object | undefined> {
  const { rows } = await client.query<object>(
    `select token, evicted_by, note from ${schema}.register($1, array[$2::uuid], '{x}', array[$3::bigint], '15 s',
       null, 's', 0, clock_timestamp() - $4::interval)`,
    [cluster, id, floor, ago],
  )
  return rows[0]
}

/** The reason with which the lease ended. */
async function lossOf(membership: Membership): Promise<string> {
  const { signal } = membership.lease ?? {}
  if (signal === undefined) throw new Error('there is no lease')
  await until(() => signal.aborted, { message: 'the lease ends' })
  return signal.reason instanceof MembershipLostError ? signal.reason.reason : String(signal.reason)
}

/** A member with a row of the application's that goes with it, and a transaction that holds that row. */
async function heldByTheApplication(
  name: string,
): Promise<{ id: string; holder: AdminClient; table: string }> {
  const [id = ''] = await typeMembers(admin, schema, name, ['one'])
  const table = `${schema}.${uniqueName('work').replaceAll('-', '_')}`
  await admin.query(`create table ${table} (member uuid references members (id) on delete cascade)`)
  await admin.query(`insert into ${table} values ($1)`, [id])
  const holder = await openAdmin()
  await holder.query('begin')
  await holder.query(`select from ${table} for update`)
  return { id, holder, table }
}

test('promise 11: while an eviction waits for what the application has attached, others join, change and leave', async () => {
  const name = uniqueName()
  const { id, holder, table } = await heldByTheApplication(name)
  const pid = await pidOf(operator)
  const evicting = call('evict', name, id, 'why')
  await whenBlocked(admin, pid)
  const other = randomUUID()
  expect(await register(admin, name, other)).toMatchObject({ token: '2' })
  await admin.query(`select set_data($1, array[$2::uuid], '{2}', '{changed}')`, [name, other])
  await admin.query(`select deregister($1, array[$2::uuid], '{2}')`, [name, other])
  await holder.query('commit')
  expect(await evicting).toBe('1')
  expect(await departures(name)).toMatchObject([
    { reason: 'deregistered', member: other, note: null },
    { reason: 'removed', member: id, by_role: ops, note: 'why' },
  ])
  await expectWholeLog(admin, schema, name)
  await admin.query(`drop table ${table}`)
})

test('promise 11: while an eviction waits for another of the same member, others join', async () => {
  const [name, id] = [uniqueName(), randomUUID()]
  await register(admin, name, id)
  await admin.query(`select deregister($1, array[$2::uuid], '{1}')`, [name, id])
  await call('evict', name, id, 'first')
  const allowing = await openAdmin()
  await allowing.query('begin')
  await allowing.query(`select ${schema}.allow($1, $2)`, [name, id])
  const pid = await pidOf(operator)
  const draining = call('drain', name, id, 'second')
  await whenBlocked(admin, pid)
  expect(await register(admin, name, randomUUID())).toMatchObject({ token: '3' })
  await allowing.query('commit')
  expect(await draining).toBeNull()
  expect(await register(admin, name, id)).toMatchObject({ token: null, note: 'second' })
})

test('promise 8: who registers while it is evicted is evicted all the same', async () => {
  const [name, id] = [uniqueName(), randomUUID()]
  await register(admin, name, id)
  await admin.query(`select deregister($1, array[$2::uuid], '{1}')`, [name, id])
  const joining = await openAdmin()
  for (const act of ['evict', 'drain']) {
    await joining.query('begin')
    const registered = (await register(joining, name, id)) as { token: string }
    const pid = await pidOf(operator)
    const outcome = call(act, name, id, 'why')
    await whenBlocked(admin, pid)
    await joining.query('commit')
    expect(await outcome).toBe(registered.token)
    if (act === 'drain') await admin.query('delete from members where id = $1', [id])
    expect((await tableOf(admin, schema, name)).members).toEqual([])
    expect((await departures(name)).at(-1)).toMatchObject({ reason: 'removed', by_role: ops, note: 'why' })
    expect((await admin.query('select token from evictions where member = $1', [id])).rows).toEqual([
      { token: registered.token },
    ])
    await call('allow', name, id)
  }
})

test('promise 15: who drains a member and takes it back when its process has heard of it is named in the log', async () => {
  const name = uniqueName()
  const cluster = open(name)
  const membership = await joined(cluster)
  const token = String(membership.lease?.token)
  await call('drain', name, membership.id, 'not seen')
  const lost = lossOf(membership)
  // The row is held, so the process hears of the drain, and cannot end its registration.
  await operator.query('begin')
  await call('allow', name, membership.id)
  expect(await lost).toBe('removed')
  await operator.query('commit')
  const back = await membership.whenRegistered()
  expect(String(back.token)).not.toBe(token)
  expect(await departures(name)).toEqual([
    { reason: 'removed', member: membership.id, by_role: ops, note: 'not seen' },
  ])
  const { rows } = await admin.query(
    'select token, by_role, note, allowed_by, allowed_at > at as later from evictions where member = $1',
    [membership.id],
  )
  expect(rows).toEqual([{ token, by_role: ops, note: 'not seen', allowed_by: ops, later: true }])
  await expectWholeLog(admin, schema, name)
})

test('promise 15: an eviction of who is not registered leaves a trace, also when it was taken back', async () => {
  const [name, id] = [uniqueName(), randomUUID()]
  await register(admin, name, id)
  await admin.query(`select deregister($1, array[$2::uuid], '{1}')`, [name, id])
  await call('evict', name, id, 'kept out')
  expect(await call('allow', name, id)).toBe(true)
  const { rows } = await admin.query('select by_role, note, allowed_by from evictions where member = $1', [
    id,
  ])
  expect(rows).toEqual([{ by_role: ops, note: 'kept out', allowed_by: ops }])
  expect(await register(admin, name, id)).toMatchObject({
    token: expect.stringMatching(/^[0-9]+$/) as unknown,
  })
})

test('promise 6: a drained member whose row the application does not let go is not kept alive by asking to register', async () => {
  const name = uniqueName()
  const [id = ''] = await typeMembers(admin, schema, name, ['held'])
  const table = `${schema}.${uniqueName('work').replaceAll('-', '_')}`
  await admin.query(`create table ${table} (member uuid references members (id))`)
  await admin.query(`insert into ${table} values ($1)`, [id])
  await call('drain', name, id, 'why')
  const heard = async (): Promise<unknown> =>
    (await admin.query('select heartbeat_at::text from members where id = $1', [id])).rows
  const before = await heard()
  await register(admin, name, id, { floor: 1 })
  expect(await heard()).toEqual(before)
  // A retry after a lost answer still finds its own row.
  expect(await register(admin, name, id, { floor: 0 })).toMatchObject({ token: '1' })
  expect(await heard()).toEqual(before)
  await admin.query(`drop table ${table}`)
})
