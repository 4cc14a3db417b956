/** An operator removes members, at once or by asking them to leave, and keeps them away. */
import { randomUUID } from 'node:crypto'
import diagnostics from 'node:diagnostics_channel'
import {
  AbortedError,
  type DiagnosticsMessages,
  type Membership,
  MembershipLostError,
  type PostgresCluster,
} from 'pg-membership'
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { type AdminClient, uniqueName } from '../support/database.js'
import { expectWholeLog, silence, storyOf, tableOf, typeMembers } from '../support/event-log.js'
import { pidOf, whenBlocked } from '../support/locks.js'
import { joined, openAdmin, openCluster } from '../support/opened.js'
import { codeOf, startRoles } from '../support/roles.js'
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

function messagesOf<C extends keyof DiagnosticsMessages>(
  channel: C,
  cluster: string,
): readonly DiagnosticsMessages[C][] {
  const messages: DiagnosticsMessages[C][] = []
  const note = (message: unknown): void => {
    const told = message as DiagnosticsMessages[C]
    if (told.cluster === cluster) messages.push(told)
  }
  diagnostics.subscribe(channel, note)
  onTestFinished(() => void diagnostics.unsubscribe(channel, note))
  return messages
}

/** The reason with which the lease ended. */
async function lossOf(membership: Membership): Promise<string> {
  const { signal } = membership.lease ?? {}
  if (signal === undefined) throw new Error('there is no lease')
  await until(() => signal.aborted, { message: 'the lease ends' })
  return signal.reason instanceof MembershipLostError ? signal.reason.reason : String(signal.reason)
}

describe('promise 8: a member that was evicted', () => {
  test('loses its lease, stays away and knows why, and comes back when it is allowed to', async () => {
    const name = uniqueName()
    const evictions = messagesOf('pg-membership:eviction', name)
    const errors = messagesOf('pg-membership:error', name)
    const [cluster, other] = [open(name), open(name)]
    const [membership, staying] = [await joined(cluster), await joined(cluster)]
    await joined(other)
    const { id, lease } = membership
    const lost = lossOf(membership)
    expect(await call('evict', name, id, 'too slow')).toBe(String(lease?.token))
    expect(await lost).toBe('removed')
    await until(() => cluster.status.lastError, { message: 'it is told' })
    expect(cluster.status.lastError?.message).toBe(`evicted by ${ops}: too slow`)
    expect(await departures(name)).toEqual([
      { reason: 'removed', member: id, by_role: ops, note: 'too slow' },
    ])
    // It asks once per heartbeat, is told each time, and reports it as news once.
    const asked = (): number => errors.filter(({ doing }) => doing === 'register').length
    const [startedMs, before] = [performance.now(), asked()]
    await until(() => asked() >= before + 3, { message: 'it asks again' })
    expect(performance.now() - startedMs).toBeGreaterThan(2 * HEARTBEAT_MS)
    expect(evictions).toMatchObject([{ cluster: name, id, byRole: ops, note: 'too slow', until: undefined }])
    // The others of its process go on meanwhile.
    await staying.setData('goes on')
    expect(other.snapshot?.get(id)).toBeUndefined()

    expect(await call('allow', name, id)).toBe(true)
    const back = await membership.whenRegistered()
    expect(back.token).toBeGreaterThan(lease?.token ?? 0)
    await until(() => other.snapshot?.get(id), { message: 'others see it again' })
    await until(() => cluster.status.lastError === undefined, { message: 'the trouble is over' })
    expect(await call('allow', name, id)).toBe(false)
    await expectWholeLog(admin, schema, name)
  })

  test('waits when it registers by hand, until its signal aborts or its time is over', async () => {
    const name = uniqueName()
    const cluster = open(name)
    const membership = await joined(cluster)
    await membership.deregister()
    expect(await call('evict', name, membership.id, 'later', '1 hour')).toBeNull()
    const aborting = new AbortController()
    const refused = membership.register({ signal: aborting.signal }).catch((error: unknown) => error)
    await until(() => cluster.status.lastError, { message: 'it is told' })
    aborting.abort()
    const error = await refused
    expect(error).toBeInstanceOf(AbortedError)
    const message = (error as AbortedError).lastError?.message ?? ''
    expect(message).toMatch(new RegExp(`^evicted by ${ops}: later \\(until 2\\d{3}-.*Z\\)$`))
    // It is not waited for any more, and that is no trouble.
    await until(() => cluster.status.lastError === undefined, { message: 'nobody wants in' })

    const waiting = membership.register()
    await until(() => cluster.status.lastError, { message: 'it is told again' })
    await admin.query(`update evictions set until = clock_timestamp() where member = $1`, [membership.id])
    await waiting
    expect(cluster.snapshot?.get(membership.id)).toBeDefined()
  })

  test('is not brought back by an attempt from before, nor by a retry that knows nothing of its registration', async () => {
    const [name, id] = [uniqueName(), randomUUID()]
    expect(await register(admin, name, id)).toMatchObject({ token: '1' })
    await call('evict', name, id, 'why')
    const refused = { token: null, evicted_by: ops, note: 'why' }
    expect(await register(admin, name, id, { floor: 1 })).toEqual(refused)
    expect(await register(admin, name, id, { floor: 0 })).toEqual(refused)
    expect(await register(admin, name, id, { floor: 0, ago: '5 s' })).toEqual(refused)
    expect(await storyOf(admin, schema, name)).toEqual(['joined registered', 'left removed'])
    // Others are not concerned, in the same call neither.
    const { rows } = await admin.query(
      `select token, evicted_by from ${schema}.register($1, array[$2::uuid, gen_random_uuid()], '{x,y}', '{0,0}', '15 s', null, 's', 0)
       order by token`,
      [name, id],
    )
    expect(rows).toEqual([
      { token: '3', evicted_by: null },
      { token: null, evicted_by: ops },
    ])
  })

  test.each(['read committed', 'repeatable read'])(
    'does not slip in while it is evicted, under %s',
    async (isolation) => {
      const [name, id] = [uniqueName(), randomUUID()]
      await register(admin, name, id)
      await admin.query(`select deregister($1, array[$2::uuid], '{1}')`, [name, id])
      const late = await openAdmin()
      await late.query(`begin isolation level ${isolation}`)
      const pid = await pidOf(late)
      await operator.query('begin')
      await call('evict', name, id, 'why')
      const outcome = register(late, name, id).catch((error: unknown) => (error as { code?: string }).code)
      await whenBlocked(admin, pid)
      await operator.query('commit')
      expect(await outcome).toBe('40001')
      await late.query('rollback')
      expect(await register(late, name, id)).toMatchObject({ evicted_by: ops })
    },
  )
})

describe('promise 8: a member that is drained', () => {
  test('ends its lease while others still see it, also while it is fenced, and its row then', async () => {
    const name = uniqueName()
    const cluster = open(name)
    const membership = await joined(cluster)
    const fencing = await openAdmin()
    await fencing.query('begin')
    await fencing.query(`select ${schema}.fence($1::uuid, $2::bigint)`, [
      membership.id,
      membership.lease?.token,
    ])
    const lost = lossOf(membership)
    await call('drain', name, membership.id, 'deploy')
    expect(await lost).toBe('removed')
    expect((await tableOf(admin, schema, name)).members).toHaveLength(1)
    expect(
      (await admin.query('select draining_since is null as stays from members_now')).rows,
    ).toContainEqual({
      stays: false,
    })
    await fencing.query('commit')
    await until(async () => (await departures(name)).length > 0, { message: 'its row goes' })
    expect(await departures(name)).toEqual([
      { reason: 'removed', member: membership.id, by_role: ops, note: 'deploy' },
    ])
    await until(() => cluster.status.lastError?.message === `evicted by ${ops}: deploy`, {
      message: 'it is told why',
    })
    await call('allow', name, membership.id)
    await membership.whenRegistered()
  })

  test('leaves, where it is to stay out after a loss', async () => {
    const name = uniqueName()
    const cluster = open(name)
    const membership = await joined(cluster, { onLost: 'stay-out' })
    const lost = lossOf(membership)
    await call('drain', name, membership.id, 'deploy')
    expect(await lost).toBe('removed')
    await until(() => cluster.snapshot?.members.length === 0, { message: 'its row goes' })
    expect(await departures(name)).toMatchObject([{ reason: 'removed', by_role: ops, note: 'deploy' }])
  })

  test('and does not hear of it goes after its ttl, and the log says who asked', async () => {
    const name = uniqueName()
    const [id = '', other = ''] = await typeMembers(admin, schema, name, ['deaf', 'other'])
    await admin.query('select sweep($1)', [name])
    await call('drain', name, id, 'deploy')
    await silence(admin, schema, name, [id, other])
    await admin.query('select sweep($1)', [name])
    const { rows } = await admin.query<object>(
      'select data, reason, by_role, note from stays where cluster = $1 order by token',
      [name],
    )
    expect(rows).toEqual([
      { data: 'deaf', reason: 'removed', by_role: ops, note: 'deploy' },
      { data: 'other', reason: 'expired', by_role: nameOf.owner, note: null },
    ])
  })

  test('and is allowed again before it has heard of it stays as it was', async () => {
    const name = uniqueName()
    const [id = ''] = await typeMembers(admin, schema, name, ['one'])
    const beat = async (): Promise<unknown> =>
      (
        await admin.query(
          `select missing, reasons from heartbeat($1, array[$2::uuid], array[1::bigint], 's', 0)`,
          [name, id],
        )
      ).rows
    await call('drain', name, id, 'deploy')
    expect(await beat()).toEqual([{ missing: [id], reasons: ['removed'] }])
    await call('allow', name, id)
    expect(await beat()).toEqual([{ missing: null, reasons: null }])
    await admin.query('delete from members where id = $1', [id])
    expect(await departures(name)).toMatchObject([{ by_role: nameOf.owner, note: null }])
  })
})

describe('promise 11: an eviction', () => {
  test('waits only for a while for a fence, and then says so', async () => {
    const name = uniqueName()
    const [id = ''] = await typeMembers(admin, schema, name, ['fenced'])
    await admin.query(`alter function evict set lock_timeout = '100ms'`)
    onTestFinished(async () => {
      await admin.query(`alter function evict set lock_timeout = '5s'`)
    })
    const fencing = await openAdmin()
    await fencing.query('begin')
    await fencing.query(`select ${schema}.fence($1::uuid, 1)`, [id])
    await expect(call('evict', name, id, 'why')).rejects.toMatchObject({
      code: '55P03',
      message: `a transaction holds the row of member ${id}`,
    })
    expect((await admin.query('select from evictions where cluster = $1', [name])).rowCount).toBe(0)
    await fencing.query('commit')
    expect(await call('evict', name, id, 'why')).toBe('1')
  })

  test.each(['not deferrable', 'deferrable initially deferred'])(
    'is refused by a foreign key that is %s, with its name, and nothing has happened',
    async (when) => {
      const name = uniqueName()
      const [id = ''] = await typeMembers(admin, schema, name, ['held'])
      const table = `${schema}.${uniqueName('work').replaceAll('-', '_')}`
      await admin.query(`create table ${table} (member uuid references members (id) ${when})`)
      await admin.query(`insert into ${table} values ($1)`, [id])
      await expect(call('evict', name, id, 'why')).rejects.toThrow(/foreign key constraint "work_/)
      expect((await admin.query('select from evictions where cluster = $1', [name])).rowCount).toBe(0)
      expect(await storyOf(admin, schema, name)).toEqual(['joined registered'])
    },
  )
})

test('promise 15: an eviction that makes no sense is refused', async () => {
  const name = uniqueName()
  const [id = ''] = await typeMembers(admin, schema, name, ['one'])
  const refusals: [string, unknown[]][] = [
    ['22023', [name, id, '', null]],
    ['22023', [name, id, null, null]],
    ['22023', [name, id, 'x'.repeat(1_001), null]],
    ['22023', [name, id, 'why', '0']],
    ['22023', [name, id, 'why', '-1 day']],
    ['P0002', ['nowhere', id, 'why', null]],
    ['P0002', [null, id, 'why', null]],
    ['P0002', [name, randomUUID(), 'why', null]],
    ['P0002', [name, null, 'why', null]],
  ]
  for (const [code, args] of refusals) {
    for (const act of ['evict', 'drain']) {
      expect([act, args, await codeOf(operator, `select ${act}($1, $2, $3, $4)`, args)]).toEqual([
        act,
        args,
        code,
      ])
    }
  }
  expect(await storyOf(admin, schema, name)).toEqual(['joined registered'])
  expect(await call('evict', name, id, 'ü'.repeat(1_000), '1 mon')).toBe('1')
})

describe('promise 8: what the application has attached to a drained member holds back that member only', () => {
  test.each([
    'deferrable initially deferred',
    'deferrable initially immediate',
    'on delete restrict',
    'on delete no action not deferrable',
  ])('a foreign key %s', async (kind) => {
    const [name, table] = [uniqueName(), uniqueName('work').replaceAll('-', '_')]
    await admin.query(`create table ${table} (member uuid references members (id) ${kind})`)
    onTestFinished(async () => {
      await admin.query(`drop table ${table}`)
    })
    const cluster = open(name)
    const busy = await joined(cluster, { data: 'busy' })
    await admin.query(`insert into ${table} values ($1)`, [busy.id])
    await call('drain', name, busy.id, 'out', '1 ms')
    await until(() => busy.lease === undefined, { message: 'it ends its lease' })
    // It asks to register, again and again, and the others with it, in one statement.
    const others = Array.from({ length: 3 }, () => cluster.createMembership({ data: 'new' }))
    await Promise.all(others.map((other) => other.register()))
    expect(busy.lease).toBeUndefined()
    await admin.query(`delete from ${table}`)
    await busy.whenRegistered()
    await expectWholeLog(admin, schema, name)
  })

  test('also where it registers by SQL, in the transaction of a caller that has queued changes of its own', async () => {
    const [name, busy, fresh] = [uniqueName(), randomUUID(), randomUUID()]
    await admin.query(
      `create table work_of_callers (member uuid references members deferrable initially deferred)`,
    )
    onTestFinished(async () => {
      await admin.query('drop table work_of_callers')
    })
    const member = await as('member')
    onTestFinished(() => member.end())
    await register(member, name, busy)
    await admin.query('insert into work_of_callers values ($1)', [busy])
    await admin.query('update members set draining_since = now() where id = $1', [busy])
    for (const isolation of ['read committed', 'repeatable read']) {
      await member.query(`begin isolation level ${isolation}`)
      const { rows } = await member.query<{ id: string }>(
        `select id from register($1, array[$2, $3]::uuid[], '{x,y}', '{1,0}', '15 s', null, 's', 0)`,
        [name, busy, fresh],
      )
      expect(rows).toEqual([{ id: fresh }])
      await member.query(isolation === 'read committed' ? 'rollback' : 'commit')
    }
    expect((await tableOf(admin, schema, name)).members.map(({ id }) => id)).toEqual([busy, fresh])
    await expectWholeLog(admin, schema, name)
  })
})
