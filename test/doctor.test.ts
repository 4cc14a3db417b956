import { randomUUID } from 'node:crypto'
import pg from 'pg'
import { migrate } from 'pg-membership'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { diagnose } from '../src/cli/doctor/diagnose.js'
import { type Finding, LIMITS, type Limits } from '../src/cli/doctor/finding.js'
import { type Hearing, hearingOf } from '../src/cli/doctor/hearing.js'
import { queryOf } from '../src/postgres/query.js'
import { pgMembership } from './support/command-line.js'
import { type AdminClient, adminClient, databaseUrl, freshSchema, newSchemaName } from './support/database.js'
import { pidOf } from './support/locks.js'
import { startRoles } from './support/roles.js'
import { until } from './support/until.js'

let schema: string
let admin: AdminClient

beforeAll(async () => {
  schema = await freshSchema()
  admin = await adminClient()
  await admin.query(`set search_path = ${schema}`)
})
afterAll(() => admin.end())

interface Asked {
  readonly client?: AdminClient
  readonly name?: string
  readonly hearing?: Promise<Hearing>
  readonly limits?: Partial<Limits>
  /** What somebody has done. It is taken back afterwards. */
  readonly after?: string
}

async function findings({ client = admin, name = schema, after, limits, ...asked }: Asked = {}): Promise<
  Finding[]
> {
  await client.query(after === undefined ? 'begin read only' : 'begin')
  try {
    if (after !== undefined) await client.query(after)
    return await diagnose({
      query: queryOf(client, name),
      schema: name,
      hearing: Promise.resolve('hears'),
      limits: { ...LIMITS, ...limits },
      ...asked,
    })
  } finally {
    await client.query('rollback')
  }
}

/** Those that concern this schema: other tests share the server. */
async function trouble(...args: Parameters<typeof findings>): Promise<string[]> {
  const shared = ['long-transactions', 'connections', 'notification-queue']
  const found = (await findings(...args)).filter(
    ({ severity, code }) => severity !== 'ok' && !shared.includes(code),
  )
  for (const { consequence, todo } of found) expect([consequence, todo]).not.toContain('')
  return found.map(({ severity, code, what }) => `${severity} ${code}: ${what}`)
}

describe('contract: the doctor', () => {
  test('finds nothing where nothing is wrong, whatever the schema is called', async () => {
    expect(await trouble()).toEqual([])
    const odd = `${newSchemaName()} "x.y", 'z'`
    await migrate({ connection: databaseUrl(), schema: odd })
    try {
      expect(await trouble({ name: odd })).toEqual([])
    } finally {
      await admin.query(`drop schema ${admin.escapeIdentifier(odd)} cascade`)
    }
  })

  test.each([
    ['drop index events_in_time', 'alert schema-drift: index events_in_time is missing'],
    [
      'alter table members drop column suspected_at cascade',
      'alert schema-drift: column members.suspected_at is missing',
    ],
    [
      'alter table members disable trigger members_changed',
      'alert schema-drift: trigger members_changed is switched off or invalid',
    ],
    [
      'create or replace function drop_cluster(cluster_name text) returns void language sql as $$ select $$',
      'alert schema-drift: function drop_cluster was changed',
    ],
    [
      'alter function sweep_as_owner(text) security invoker',
      'alert schema-drift: function sweep_as_owner was changed',
    ],
    ['create table customers (id integer)', 'note schema-extras: not of this package: table customers'],
    [
      'alter table members alter session_role type bigint',
      'alert schema-drift: column members.session_role was changed',
    ],
    [
      'alter table members drop constraint members_id_token_key cascade',
      'alert schema-drift: unique (id, token) of members is missing, ' +
        'foreign key (member, token) of claims is missing, foreign key (member, token) of nonces is missing',
    ],
    [
      'alter table clusters drop constraint clusters_name_check',
      'alert schema-drift: check of clusters is missing',
    ],
    [
      `alter table clusters drop constraint clusters_name_check,
        add check (octet_length(convert_to(name, 'UTF8')) between 1 and 25)`,
      'alert schema-drift: check of clusters was changed',
    ],
    [
      `alter domain member_ttl drop constraint member_ttl_check;
        alter domain member_ttl add check (value between interval '1 second' and interval '2 days'
        and extract(month from value) = 0 and extract(year from value) = 0)`,
      'alert schema-drift: domain member_ttl was changed',
    ],
    [
      'alter domain event_kind drop constraint event_kind_check',
      'alert schema-drift: domain event_kind was changed',
    ],
    [
      `create or replace view changes as select e.cluster, e.revision, e.at, e.kind, e.reason, e.member, e.token,
        readable(e.data) as data, e.by_role, e.note::text from events e where e.kind <> 'left'`,
      'alert schema-drift: view changes was changed',
    ],
    [
      `alter function evict(text, uuid, text, interval) set lock_timeout = '1h'`,
      'alert schema-drift: the setting of function evict was changed',
    ],
    [
      'alter function sweep_as_owner(text) reset search_path',
      'alert schema-drift: the setting of function sweep_as_owner was changed',
    ],
    [
      `alter table claims drop constraint claims_member_token_fkey,
        add foreign key (member, token) references members (id, token) on delete restrict`,
      'alert schema-drift: foreign key (member, token) of claims was changed',
    ],
    [
      'alter table members add check (length(cluster) < 9)',
      'note schema-extras: not of this package: check of members',
    ],
    [
      'alter table members enable row level security; drop policy by_grants_alone on members',
      'alert row-security: row level security hides rows of members',
    ],
  ])('%s', async (sql, expected) => {
    expect(await trouble({ after: sql })).toContain(expected)
  })

  test('a schema that is missing, and a pooler', async () => {
    expect(await trouble({ name: newSchemaName() })).toContain('alert schema-version: The schema is missing')
    expect(await trouble({ hearing: Promise.resolve('pooled') })).toEqual([
      expect.stringContaining('warning listen: a pooler'),
    ])
  })

  test('a member past its ttl that nobody sweeps: exit code 3, with --json too', async () => {
    const id = randomUUID()
    await admin.query(`select register('chat', array[$1::uuid], '{x}', '{0}', '15s', null, 's', 0)`, [id])
    await admin.query(`alter table members disable trigger user`)
    await admin.query(`update members set heartbeat_at = heartbeat_at - interval '1 min'`)
    await admin.query(`alter table members enable trigger user`)
    await admin.query(`delete from sweeps`)
    const { code, stdout, stderr } = await pgMembership(['doctor', '--schema', schema])
    expect({ code, stderr }).toEqual({ code: 3, stderr: '' })
    expect(stdout).toContain(`ALERT    members-overdue: past their ttl, but not removed: chat ${id}\n`)
    expect(stdout).toContain('ALERT    sweeping: nobody sweeps "chat"\n')
    const json = await pgMembership(['doctor', '--schema', schema, '--json'])
    expect(json.code).toBe(3)
    expect(JSON.parse(json.stdout)).toContainEqual(
      expect.objectContaining({ code: 'sweeping', severity: 'alert' }),
    )
    await admin.query('delete from members')
  })

  test('a transaction that has swept and stays open, with its process and role', async () => {
    await admin.query(`select register('open', array[gen_random_uuid()], '{x}', '{0}', '15s', null, 's', 0)`)
    await using holder = await adminClient(databaseUrl())
    await holder.query('begin')
    await holder.query(`select ${schema}.sweep('open')`)
    await admin.query(
      `insert into sweeps (cluster, swept_at, resumed_at, turn, pace, server_started_at)
       select cluster, swept_at + interval '5.1 s', resumed_at, turn, pace, server_started_at from sweeps where cluster = 'open'`,
    )
    const pid = await pidOf(holder)
    expect(await trouble()).toContainEqual(
      expect.stringMatching(
        new RegExp(
          `^alert sweeping: a transaction has swept "open" and is still open \\(pid ${pid}, role .+\\)$`,
        ),
      ),
    )
    await holder.query('rollback')
    await admin.query(`delete from sweeps where cluster = 'open'`)
    await admin.query(`delete from members where cluster = 'open'`)
  })

  test('a reader may run it; what the role may not see is a note, and nothing fails', async () => {
    const roles = await startRoles()
    await using reader = await roles.as('reader')
    const found = await findings({ client: reader, name: roles.schema })
    expect(found.filter(({ severity }) => severity === 'alert')).toEqual([])
    expect(found.filter(({ what }) => what.startsWith('could not be checked'))).toEqual([])
    expect(found).toContainEqual(
      expect.objectContaining({
        code: 'privileges',
        severity: 'note',
        what: expect.stringContaining('may read, but not register') as string,
      }),
    )
    expect(found.map(({ what }) => what)).toContain('this role sees only its own transactions')
    const able = async (role: 'operator' | 'member' | 'owner') => {
      await using client = await roles.as(role)
      const found = await findings({ client, name: roles.schema })
      return found
        .filter(({ code }) => code === 'privileges')
        .map(({ severity, what }) => `${severity}: ${what}`)
    }
    const who = (role: 'operator' | 'member' | 'owner') => `role ${JSON.stringify(roles.nameOf[role])}`
    expect(await able('member')).toEqual([`ok: ${who('member')} may do all that the kind member does`])
    expect(await able('operator')).toEqual([`ok: ${who('operator')} may do all that the kind operator does`])
    expect(await able('owner')).toEqual([
      `ok: ${who('owner')} may do all that the kind member and operator does`,
    ])
    await admin.query(
      `revoke execute on function ${roles.schema}.drain from ${admin.escapeIdentifier(roles.nameOf.operator)}`,
    )
    expect(await able('operator')).toEqual([
      `warning: ${who('operator')} may do a part of what the kind operator does, but not call drain`,
    ])
    await admin.query(
      `revoke select on ${roles.schema}.stays from ${admin.escapeIdentifier(roles.nameOf.member)}`,
    )
    expect(await able('member')).toEqual([`warning: ${who('member')} may not use stays`])
    await using nobody = await roles.as('nobody')
    const unseen = await findings({ client: nobody, name: roles.schema })
    expect(unseen).toContainEqual(expect.objectContaining({ code: 'members-overdue', severity: 'note' }))
    expect(unseen).toContainEqual(expect.objectContaining({ code: 'locks', severity: 'ok' }))
  })

  test('a clock that is wrong here, in both directions', async () => {
    const now = Date.now.bind(Date)
    onTestFinished(() => void vi.restoreAllMocks())
    for (const [ms, expected] of [
      [5_000, /differ by [45]\.\d s$/],
      [-5_000, /differ by [45]\.\d s$/],
    ] as const) {
      vi.spyOn(Date, 'now').mockImplementation(() => now() + ms)
      expect(await trouble()).toEqual([expect.stringMatching(expected)])
    }
    vi.spyOn(Date, 'now').mockImplementation(() => now() + 300)
    expect(await trouble()).toEqual([])
  })

  test('a listener inside an open transaction, which fills the queue of notifications', async () => {
    await using listener = await adminClient()
    await listener.query('listen doctor_test')
    await listener.query('begin; select 1')
    await admin.query(`select pg_notify('doctor_test', repeat('x', 7000) || n) from generate_series(1, 50) n`)
    const limits = { queueShare: 1e-6, transactionMs: 0 }
    const { rows } = await listener.query<{ pid: number }>('select pg_backend_pid() as pid, txid_current()')
    const found = await findings({ limits })
    expect(found).toContainEqual(
      expect.objectContaining({
        code: 'notification-queue',
        severity: 'warning',
        todo: expect.stringContaining('listens inside an open transaction') as string,
      }),
    )
    expect(found.find(({ code }) => code === 'long-transactions')?.what).toMatch(/^older than 0ms: /)
    // Others may have open transactions at this moment.
    const holders = found.find(
      ({ code, severity }) => code === 'long-transactions' && severity === 'warning',
    )?.what
    if (!holders?.includes('more')) expect(holders).toContain(`pid ${String(rows[0]?.pid)}`)
  })

  test('a log that is larger than the limit', async () => {
    const [found] = (await findings({ limits: { logBytes: 8192 } })).filter(({ code }) => code === 'log-size')
    expect(found).toMatchObject({
      severity: 'warning',
      what: expect.stringMatching(/^the log has \d+ kB$/) as string,
    })
    expect(found?.todo).toContain('set_retention')
  })

  test('a process with more connections than it needs, and a server that is nearly full', async () => {
    const name = `pg-membership test ${randomUUID().slice(-12)}`
    const url = new URL(databaseUrl())
    url.searchParams.set('application_name', name)
    const clients = await Promise.all(
      Array.from({ length: 7 }, async () => {
        const client = new pg.Client({ connectionString: url.href })
        await client.connect()
        return client
      }),
    )
    const found = (await findings({ limits: { connectionShare: 0.01 } })).filter(
      ({ code }) => code === 'connections',
    )
    await Promise.all(clients.map((client) => client.end()))
    expect(found.map(({ severity, what }) => `${severity} ${what}`)).toEqual([
      expect.stringContaining(`${name} has 7`),
      expect.stringMatching(/^warning \d+ % of max_connections are in use$/),
    ])
  })

  test('a transaction that makes others wait', async () => {
    await admin.query(
      `select register('locked', array[gen_random_uuid()], '{x}', '{0}', '15s', null, 's', 0)`,
    )
    await using holder = await adminClient()
    await using waiter = await adminClient()
    const update = `update ${schema}.clusters set stamp = stamp where name = 'locked'`
    await holder.query('begin')
    const { rows } = await holder.query<{ pid: number }>('select pg_backend_pid() as pid')
    await holder.query(update)
    const waiting = waiter.query(update)
    await until(
      async () => (await trouble()).includes(`warning locks: others wait for pid ${String(rows[0]?.pid)}`),
      {
        message: 'the lock is found',
      },
    )
    await holder.query('rollback')
    await waiting
    expect((await trouble()).filter((line) => line.includes('locks'))).toEqual([])
    await admin.query('delete from members')
  })

  test('LISTEN is tried with a real notification: one that is lost is found out', async () => {
    await using client = await adminClient()
    await using other = await adminClient()
    const asked: string[] = []
    const notify = (statement: string) => (asked.push(statement), other.query(statement))
    expect(await hearingOf(client, notify)).toBe('hears')
    expect(await hearingOf(client, () => other.query('notify somebody_else'))).toBe('deaf')
    expect(asked).toEqual([expect.stringMatching(/^notify pg_membership_doctor_[0-9a-f]{16}$/)])
    expect((await admin.query(`select pg_listening_channels()`)).rows).toEqual([])
    expect(await trouble({ hearing: Promise.resolve('deaf') })).toEqual([
      'warning listen: LISTEN is taken, but no notification came within 2 s',
    ])
    const refused = Promise.reject(new Error('too many connections'))
    refused.catch(() => undefined)
    expect(await trouble({ hearing: refused })).toEqual([
      'note listen: could not be checked: too many connections',
    ])
    const { stdout } = await pgMembership(['doctor', '--schema', schema])
    expect(stdout).toContain(
      'ok       listen: LISTEN works through this connection: a notification was heard\n',
    )
  })

  test('heartbeats that write indexes, and rows that nobody needs any more', async () => {
    // The server goes on counting what was done here: so nobody else looks at this schema.
    const name = await freshSchema()
    await using client = await adminClient()
    await client.query(
      `set search_path = ${name};
       create index mine on members (heartbeat_at); alter table members set (autovacuum_enabled = off)`,
    )
    const fill = (
      rows: number,
    ) => `alter table members disable trigger user; insert into members (id, cluster)
      select gen_random_uuid(), 'chat' from generate_series(1, ${String(rows)}); alter table members enable trigger user`
    await client.query(fill(500))
    await client.query(
      `do 'begin for n in 1 .. 3 loop update members set heartbeat_at = clock_timestamp(); end loop; end'`,
    )
    // What is not committed leaves nothing but dead rows.
    await client.query(`begin; ${fill(11_000)}; rollback`)
    // The server counts some time after the transaction.
    const found = await until(
      async () => {
        const now = await trouble({ client, name })
        return (
          now.some((line) => line.includes('members-bloat')) &&
          now.some((line) => line.includes('members-hot')) &&
          now
        )
      },
      { message: 'the server has counted' },
    )
    expect(found).toContainEqual(expect.stringMatching(/^warning members-hot: only [0-9] % of the updates/))
    expect(found).toContainEqual(
      expect.stringMatching(/^warning members-bloat: members has 1[12]\d{3} dead rows and 500 live ones$/),
    )
  })
})
