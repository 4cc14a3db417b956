/** Statements that are executed late, or for long: after their caller has given them up. */
import { randomUUID } from 'node:crypto'
import { expect, onTestFinished, test } from 'vitest'
import { type AdminClient, databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { expectWholeLog, silence, storyOf, tableOf, typeMembers } from '../support/event-log.js'
import { pidOf, whenBlocked } from '../support/locks.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import { codeOf } from '../support/roles.js'
import { until } from '../support/until.js'

const schema = await freshSchema()
const members = `${schema}.members`

/** As the library sends it, `ago` after the attempt began. */
async function register(
  admin: AdminClient,
  cluster: string,
  id: string,
  { ago, floor = 0 }: { readonly ago: string | null; readonly floor?: number },
): Promise<number | undefined> {
  const { rows } = await admin.query<{ token: string }>(
    `select token from ${schema}.register($1, array[$2::uuid], '{x}', array[$3::bigint], '15 s', null, 's', 0,
       clock_timestamp() - $4::interval)`,
    [cluster, id, floor, ago],
  )
  return rows[0] && Number(rows[0].token)
}

test('promise 8: an attempt to register that is older than its owner waits is refused', async () => {
  const admin = await openAdmin()
  const cluster = uniqueName()
  await expect(register(admin, cluster, randomUUID(), { ago: '10.1 s' })).rejects.toMatchObject({
    code: 'MB003',
  })
  expect(await register(admin, cluster, randomUUID(), { ago: '9 s' })).toBe(1)
  expect(await register(admin, cluster, randomUUID(), { ago: null })).toBe(2)
  // The clock of the server went back: that is no age.
  expect(await register(admin, cluster, randomUUID(), { ago: '-1 hour' })).toBe(3)
})

test('promise 8: an attempt from before a departure brings nobody back', async () => {
  const admin = await openAdmin()
  const [cluster, id] = [uniqueName(), randomUUID()]
  const token = await register(admin, cluster, id, { ago: '0' })
  await admin.query(`select ${schema}.deregister($1, array[$2::uuid], array[$3::bigint])`, [
    cluster,
    id,
    token,
  ])
  expect(await register(admin, cluster, id, { ago: '1 s' })).toBeUndefined()
  expect((await tableOf(admin, schema, cluster)).members).toEqual([])
  // One that begins later does, also where its owner knows nothing of the registration before.
  expect(await register(admin, cluster, id, { ago: '0' })).toBe(3)
  await expectWholeLog(admin, schema, cluster)
})

test('promise 8: a departure that seems to be in the future, as the clock went back, keeps nobody out', async () => {
  const admin = await openAdmin()
  const [cluster, id] = [uniqueName(), randomUUID()]
  const token = await register(admin, cluster, id, { ago: '0' })
  await admin.query(`delete from ${members} where id = $1`, [id])
  await admin.query(
    `update ${schema}.events set at = at + interval '1 hour' where member = $1 and kind = 'left'`,
    [id],
  )
  expect(await register(admin, cluster, id, { ago: '1 s', floor: token ?? 0 })).toBeGreaterThan(token ?? 0)
})

test('promise 8: an attempt that was left in the network after its owner has given it up does not bring it back', async () => {
  const [admin, name] = [await openAdmin(), uniqueName()]
  // Each connection goes through a network of its own.
  const networks = [await openProxy(), await openProxy()]
  const [first, second] = networks
  if (!first || !second) throw new Error('two networks')
  let through = first
  const cluster = openCluster({
    schema,
    name,
    connection: () => Promise.resolve(through.throughIt),
    listenConnection: databaseUrl(),
  })
  // So that the connection for writes is there.
  const guest = await joined(cluster)
  await guest.deregister()
  const membership = cluster.createMembership({ data: 'late' })
  // It stays in the first network; its owner gives the connection up, and takes the other one.
  first.freeze({ direction: 'toServer' })
  through = second
  await membership.register()
  await membership.deregister()
  const story = await storyOf(admin, schema, name)
  expect(story.slice(2)).toEqual(['joined registered', 'left deregistered'])
  expect(first.connections).toBeGreaterThan(1)
  first.thaw()
  // The connection for heartbeats has not been asked anything meanwhile, and may stay.
  await until(() => first.connections <= 1, {
    message: 'what was left arrives and is executed, and its connection ends',
  })
  expect(await storyOf(admin, schema, name)).toEqual(story)
})

test('promise 7: an older heartbeat that comes to its end last takes nothing back', async () => {
  const admin = await openAdmin()
  const cluster = uniqueName()
  const [id = ''] = await typeMembers(admin, schema, cluster, ['one'])
  const { rows } = await admin.query<{ at: string }>(
    `update ${members} set heartbeat_at = clock_timestamp() + interval '1 minute' where id = $1 returning heartbeat_at::text as at`,
    [id],
  )
  await admin.query(`select ${schema}.heartbeat($1, array[$2::uuid], '{1}', 's', 0)`, [cluster, id])
  const { rowCount } = await admin.query(`select from ${members} where id = $1 and heartbeat_at = $2`, [
    id,
    rows[0]?.at,
  ])
  expect(rowCount).toBe(1)
})

test('promise 6: a heartbeat from before a suspicion does not end it', async () => {
  const admin = await openAdmin()
  const cluster = uniqueName()
  const [id = ''] = await typeMembers(admin, schema, cluster, ['one'])
  const suspicion = async (when: string): Promise<unknown> => {
    await admin.query(`update ${members} set suspected_at = clock_timestamp() + $2::interval where id = $1`, [
      id,
      when,
    ])
    await admin.query(`select ${schema}.heartbeat($1, array[$2::uuid], '{1}', 's', 0)`, [cluster, id])
    const { rows } = await admin.query<{ there: boolean }>(
      `select suspected_at is not null as there from ${members} where id = $1`,
      [id],
    )
    return rows[0]?.there
  }
  expect(await suspicion('1 minute')).toBe(true)
  expect(await suspicion('-1 s')).toBe(false)
})

test('promise 6: a cascade that takes longer than a sweeper waits ends all the same, and the dead go', async () => {
  const [admin, name] = [await openAdmin(), uniqueName()]
  const [dead = '', other = ''] = await typeMembers(admin, schema, name, ['slow', 'quick'])
  // It waits for this lock, as it would for the disk: for as long as the test wants.
  const lock = 4_711_000 + Math.floor(Math.random() * 1_000_000)
  const table = `${schema}.slow_${String(lock)}`
  await admin.query(`
    create table ${table} (member uuid references ${members} on delete cascade);
    create function ${table}() returns trigger language plpgsql set lock_timeout = 0 as $$
      begin perform pg_advisory_xact_lock(${String(lock)}); return old; end $$;
    create trigger slow before delete on ${table} for each row execute function ${table}()`)
  await admin.query(`insert into ${table} values ($1)`, [dead])
  const slow = await openAdmin()
  await slow.query('select pg_advisory_lock($1)', [lock])
  const warnings: string[] = []
  const ignore = (): void => undefined
  const cluster = openCluster({
    schema,
    name,
    ttlMs: 1_000,
    crashGraceMs: false,
    logger: {
      debug: ignore,
      info: ignore,
      warn: (_details, message) => void warnings.push(message),
      error: ignore,
    },
  })
  onTestFinished(() => void slow.query('select pg_advisory_unlock_all()').catch(() => undefined))
  await joined(cluster)
  await silence(admin, schema, name, [dead, other])
  const waiting = async (): Promise<number[]> => {
    const { rows } = await admin.query<{ pid: number }>(
      `select pid from pg_locks where locktype = 'advisory' and not granted and objid = $1`,
      [lock],
    )
    return rows.map(({ pid }) => pid)
  }
  await admin.query(`set lock_timeout = '100 ms'`)
  const pid = await until(
    async () => {
      await silence(admin, schema, name, [dead, other]).catch(() => undefined)
      return (await waiting())[0]
    },
    { message: 'a sweep waits in the cascade' },
  )
  await admin.query('reset lock_timeout')
  // The sweeper has given it up, and gone on with another connection, twice as long as it may be left.
  await until(() => warnings.some((message) => /sweep.*took longer/.test(message)), {
    withinMs: 15_000,
    message: 'the sweeper gives up',
  })
  const { rows } = await admin.query<{ later: string }>(
    `select (clock_timestamp() + interval '2.5 s')::text as later`,
  )
  await until(
    async () => (await admin.query('select where clock_timestamp() > $1', [rows[0]?.later])).rowCount,
    { message: 'the server looks after its client' },
  )
  expect(await waiting()).toEqual([pid])
  await slow.query('select pg_advisory_unlock($1)', [lock])
  await until(async () => (await tableOf(admin, schema, name)).members.length === 1, {
    message: 'the dead are gone',
  })
  expect(await codeOf(admin, `drop table ${table}`)).toBeUndefined()
  await expectWholeLog(admin, schema, name)
})

test.each(['trim_events', 'set_retention'])(
  'promise 8: an attempt from before a departure brings nobody back, whatever of the log was trimmed: %s',
  async (how) => {
    const admin = await openAdmin()
    const [cluster, id] = [uniqueName(), randomUUID()]
    const token = await register(admin, cluster, id, { ago: '0' })
    await admin.query(`select ${schema}.deregister($1, array[$2::uuid], array[$3::bigint])`, [
      cluster,
      id,
      token,
    ])
    await register(admin, cluster, randomUUID(), { ago: null })
    if (how === 'trim_events') await admin.query(`select ${schema}.trim_events('0')`)
    else {
      await admin.query(`select ${schema}.set_retention('1 us', 1)`)
      for (let n = 0; n < 2; n++) await admin.query(`select ${schema}.sweep($1)`, [cluster])
    }
    expect(await register(admin, cluster, id, { ago: '5 s' })).toBeUndefined()
    // What nobody asks for any more goes.
    await admin.query(`update ${schema}.events set at = at - interval '20 s' where cluster = $1`, [cluster])
    if (how === 'trim_events') await admin.query(`select ${schema}.trim_events('0')`)
    else {
      await admin.query(`update ${schema}.sweeps set trim_at = clock_timestamp() where cluster = $1`, [
        cluster,
      ])
      await admin.query(`select ${schema}.sweep($1)`, [cluster])
      await admin.query(`select ${schema}.set_retention(null, null)`)
    }
    expect(await storyOf(admin, schema, cluster)).toEqual(['joined registered'])
  },
)

test('promise 8: an attempt that is stopped after it has looked for departures brings nobody back', async () => {
  const [admin, late] = [await openAdmin(), await openAdmin()]
  const [cluster, id] = [uniqueName(), randomUUID()]
  await admin.query(`alter function ${schema}.register set lock_timeout = '10 s'`)
  await register(admin, cluster, randomUUID(), { ago: null })
  const pid = await pidOf(late)
  // It waits for the cluster, and has looked. Its owner gives it up, registers and leaves.
  await admin.query('begin')
  await admin.query(`update ${schema}.clusters set stamp = stamp where name = $1`, [cluster])
  const outcome = register(late, cluster, id, { ago: '0' }).catch(
    (error: unknown) => (error as { code: string }).code,
  )
  await whenBlocked(admin, pid)
  const token = await register(admin, cluster, id, { ago: '0' })
  await admin.query(`select ${schema}.deregister($1, array[$2::uuid], array[$3::bigint])`, [
    cluster,
    id,
    token,
  ])
  await admin.query('commit')
  expect(await outcome).toBe('40001')
  expect((await tableOf(admin, schema, cluster)).members).toHaveLength(1)
  await expectWholeLog(admin, schema, cluster)
})

test('promise 8: an attempt that becomes too old while it waits for the cluster is refused', async () => {
  const [admin, late] = [await openAdmin(), await openAdmin()]
  const cluster = uniqueName()
  await admin.query(`alter function ${schema}.register set lock_timeout = '10 s'`)
  await register(admin, cluster, randomUUID(), { ago: null })
  const pid = await pidOf(late)
  await admin.query('begin')
  await admin.query(`update ${schema}.clusters set stamp = stamp where name = $1`, [cluster])
  const outcome = register(late, cluster, randomUUID(), { ago: '9.8 s' }).catch(
    (error: unknown) => (error as { code: string }).code,
  )
  await whenBlocked(admin, pid)
  await until(
    async () =>
      (await admin.query(`select where clock_timestamp() > transaction_timestamp() + interval '300 ms'`))
        .rowCount,
    { message: 'it is too old' },
  )
  await admin.query('commit')
  expect(await outcome).toBe('MB003')
})
