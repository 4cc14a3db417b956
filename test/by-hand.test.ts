/** What the owner of the schema types by hand works and readers are told of it, or it is refused with a clear message. */
import { describe, expect, test } from 'vitest'
import { freshSchema, uniqueName } from './support/database.js'
import { eventsOf, expectWholeLog, silence, storyOf, tableOf, typeMembers } from './support/event-log.js'
import { pidOf, whenBlocked } from './support/locks.js'
import { joined, openAdmin, openCluster } from './support/opened.js'
import { codeOf } from './support/roles.js'
import { until } from './support/until.js'

const schema = await freshSchema()
const members = `${schema}.members`
const REFUSED = '23000'

describe('promises 2 and 16: a row that was deleted', () => {
  test('is not put back with its token, which would pass its fence beside the next leader', async () => {
    const admin = await openAdmin()
    const cluster = uniqueName()
    const [first] = await typeMembers(admin, schema, cluster, ['first', 'second'])
    await admin.query(`create temp table saved as select * from ${members} where id = $1`, [first])
    await admin.query(`delete from ${members} where id = $1`, [first])
    const back = admin.query(`insert into ${members} select * from saved`)
    await expect(back).rejects.toMatchObject({
      code: REFUSED,
      message: 'members.token is assigned by the cluster: leave it out',
    })
    expect((await tableOf(admin, schema, cluster)).members).toHaveLength(1)
    await expectWholeLog(admin, schema, cluster)
  })

  test('comes back as a new registration, at the end of the line, and readers are told', async () => {
    const admin = await openAdmin()
    const name = uniqueName()
    const cluster = openCluster({ schema, name })
    const [first = ''] = await typeMembers(admin, schema, name, ['first', 'second'])
    expect((await cluster.getMembers()).map(({ data }) => data)).toEqual(['first', 'second'])
    await admin.query(`create temp table saved as select * from ${members} where id = $1`, [first])
    await admin.query(`delete from ${members} where id = $1`, [first])
    await admin.query(
      `insert into ${members} (id, cluster, data, ttl, crash_grace) select id, cluster, data, ttl, crash_grace from saved`,
    )
    await until(() => cluster.snapshot?.members.map(({ data }) => data).join() === 'second,first', {
      message: 'the reader is told',
    })
    expect(cluster.snapshot?.get(first)?.token).toBeGreaterThan(2)
  })
})

test('promises 2 and 4: of a changed registered_at, which snapshots show, the readers are told', async () => {
  const admin = await openAdmin()
  const name = uniqueName()
  const cluster = openCluster({ schema, name })
  const [id = ''] = await typeMembers(admin, schema, name, ['one'])
  const [before] = await cluster.getMembers()
  await admin.query(`update ${members} set registered_at = registered_at - interval '1 hour' where id = $1`, [
    id,
  ])
  await until(() => cluster.snapshot?.get(id)?.registeredAt !== before?.registeredAt, {
    message: 'the reader is told',
  })
  expect(cluster.snapshot?.members).toEqual((await tableOf(admin, schema, name)).members)
  await expectWholeLog(admin, schema, name)
  await admin.query(`update ${members} set registered_at = registered_at, token = token where id = $1`, [id])
  expect(await storyOf(admin, schema, name)).toEqual(['joined registered', 'updated data'])
})

describe('promises 2, 4 and 19: what the owner types by hand', () => {
  test.each([
    [`update clusters set name = 'another' where name = $1`, 'the name of a cluster never changes'],
    ['update clusters set revision = revision - 1 where name = $1', 'UPDATE of clusters is refused'],
    ['update clusters set revision = revision + 1 where name = $1', 'UPDATE of clusters is refused'],
    ['update clusters set last_token = 0 where name = $1', 'UPDATE of clusters is refused'],
    ['update clusters set stamp = gen_random_uuid() where name = $1', 'UPDATE of clusters is refused'],
    ['update clusters set previous_stamp = null where name = $1', 'UPDATE of clusters is refused'],
    ['update events set revision = revision + 100 where cluster = $1', 'UPDATE of events is refused'],
    [`update events set data = 'other' where cluster = $1`, 'UPDATE of events is refused'],
    [`update events set cluster = 'another' where cluster = $1`, 'UPDATE of events is refused'],
    [
      'update members_channels set key = sha256(key) where cluster = $1',
      'UPDATE of members_channels is refused',
    ],
    [
      `update members_channels set name = 'members_' || md5(name) where cluster = $1`,
      'UPDATE of members_channels is refused',
    ],
    ['update nonces set used_at = null where cluster = $1', 'a used nonce stays as it is'],
    [`update nonces set value = 'b' where cluster = $1`, 'a used nonce stays as it is'],
  ])('is refused: %s', async (text, message) => {
    const admin = await openAdmin()
    await admin.query(`set search_path = ${schema}`)
    const cluster = uniqueName()
    await typeMembers(admin, schema, cluster, ['one', 'two'])
    await admin.query('select members_channel($1)', [cluster])
    await admin.query(`insert into nonces (cluster, name, value, used_at) values ($1, 'pool', 'a', now())`, [
      cluster,
    ])
    await expect(admin.query(text, [cluster])).rejects.toMatchObject({
      code: REFUSED,
      message: expect.stringContaining(message) as string,
      hint: expect.stringMatching(/./) as string,
    })
    await typeMembers(admin, schema, cluster, ['three'])
    await expectWholeLog(admin, schema, cluster)
    await admin.query('select renew_members_channel($1)', [cluster])
  })

  test('cannot make hints go to a channel that nobody hears', async () => {
    const admin = await openAdmin()
    await admin.query(`set search_path = ${schema}`)
    const cluster = uniqueName()
    await admin.query(`insert into clusters (name, channel) values ($1, 'x')`, [cluster])
    await admin.query(`update clusters set channel = 'y' where name = $1`, [cluster])
    const { rows } = await admin.query(
      'select channel = channel(name) as fits from clusters where name = $1',
      [cluster],
    )
    expect(rows).toEqual([{ fits: true }])
  })
})

describe('promise 4: a cluster', () => {
  test('is not deleted by hand, nor all of them: it would begin again at a revision that the log has', async () => {
    const admin = await openAdmin()
    const cluster = uniqueName()
    await typeMembers(admin, schema, cluster, ['one'])
    for (const text of [`delete from ${schema}.clusters`, `truncate ${schema}.clusters`]) {
      expect([text, await codeOf(admin, text)]).toEqual([text, REFUSED])
    }
    await typeMembers(admin, schema, cluster, ['two'])
    await expectWholeLog(admin, schema, cluster)
  })

  test('is dropped by a call when its members have left, with all that was known of it, and can begin again', async () => {
    const admin = await openAdmin()
    const name = uniqueName()
    const cluster = openCluster({ schema, name })
    const membership = await joined(cluster)
    const drop = `select ${schema}.drop_cluster($1)`
    await expect(admin.query(drop, [name])).rejects.toMatchObject({
      code: '55006',
      message: `cluster ${name} has members`,
    })
    await membership.deregister()
    await cluster.close()
    await admin.query(`select ${schema}.evict($1, $2, 'it is over')`, [name, membership.id])
    await admin.query(drop, [name])
    for (const [table, column] of [
      ['clusters', 'name'],
      ['events', 'cluster'],
      ['evictions', 'cluster'],
      ['sweeps', 'cluster'],
      ['held_heartbeats', 'cluster'],
    ] as const) {
      const { rowCount } = await admin.query(`select from ${schema}.${table} where ${column} = $1`, [name])
      expect([table, rowCount]).toEqual([table, 0])
    }
    await admin.query(drop, ['there is no such cluster'])
    const again = openCluster({ schema, name })
    await joined(again, { data: 'again' })
    expect(await storyOf(admin, schema, name)).toEqual(['joined registered'])
    expect(again.snapshot).toMatchObject({ revision: 1, members: [{ data: 'again', token: 1 }] })
  })

  test('is dropped with used nonces only by who says so', async () => {
    const admin = await openAdmin()
    const cluster = uniqueName()
    await typeMembers(admin, schema, cluster, ['one'])
    await admin.query(`delete from ${members} where cluster = $1`, [cluster])
    await admin.query(
      `insert into ${schema}.nonces (cluster, name, value, used_at) values ($1, 'pool', 'a', now())`,
      [cluster],
    )
    for (const text of ['drop_cluster($1)', 'drop_cluster($1, null)']) {
      await expect(admin.query(`select ${schema}.${text}`, [cluster])).rejects.toMatchObject({
        code: '55006',
        message: `cluster ${cluster} has used nonces, which would be forgotten`,
      })
    }
    await admin.query(`select ${schema}.drop_cluster($1, true)`, [cluster])
    expect((await admin.query(`select from ${schema}.nonces where cluster = $1`, [cluster])).rowCount).toBe(0)
  })

  test('is not dropped while somebody joins it', async () => {
    const [admin, other] = [await openAdmin(), await openAdmin()]
    const cluster = uniqueName()
    await typeMembers(admin, schema, cluster, ['one'])
    await admin.query(`delete from ${members} where cluster = $1`, [cluster])
    await other.query('begin')
    await typeMembers(other, schema, cluster, ['two'])
    const pid = await pidOf(admin)
    const dropped = codeOf(admin, `select ${schema}.drop_cluster($1)`, [cluster])
    await whenBlocked(other, pid)
    await other.query('commit')
    expect(await dropped).toBe('55006')
    await expectWholeLog(admin, schema, cluster)
  })
})

test('promises 2 and 7: a dump of the data alone is restored, also after the log was trimmed', async () => {
  const admin = await openAdmin()
  const cluster = uniqueName()
  const ids = await typeMembers(admin, schema, cluster, ['gone', 'stays', 'changes'])
  await admin.query(`delete from ${members} where id = $1`, [ids[0]])
  await admin.query(`update ${members} set data = 'changed' where id = $1`, [ids[2]])
  await admin.query(
    `update ${schema}.events set at = at - interval '1 day', registered_at = registered_at - interval '1 day'`,
  )
  await admin.query(`alter table ${members} disable trigger user`)
  await admin.query(`update ${members} set registered_at = registered_at - interval '1 day'`)
  await admin.query(`alter table ${members} enable trigger user`)
  await admin.query(`select ${schema}.trim_events('1 hour')`)
  expect((await eventsOf(admin, schema, cluster)).map(({ kind }) => kind)).toEqual(['joined', 'updated'])
  const copy = await freshSchema()
  // As pg_dump writes it: table by table, in the order of their names.
  for (const table of [
    'clusters',
    'events',
    'evictions',
    'held_heartbeats',
    'members',
    'retention',
    'sweeps',
  ]) {
    await admin.query(`insert into ${copy}.${table} select * from ${schema}.${table}`)
  }
  expect(await tableOf(admin, copy, cluster)).toEqual(await tableOf(admin, schema, cluster))
  expect(await eventsOf(admin, copy, cluster)).toEqual(await eventsOf(admin, schema, cluster))
  // It goes on where it was.
  await typeMembers(admin, copy, cluster, ['new'])
  expect((await tableOf(admin, copy, cluster)).members.map(({ token }) => token)).toEqual([2, 3, 6])
  await admin.query(`select ${copy}.sweep($1)`, [cluster])
  await silence(admin, copy, cluster, [ids[1] ?? ''])
  await admin.query(`select ${copy}.sweep($1)`, [cluster])
  expect((await tableOf(admin, copy, cluster)).members.map(({ token }) => token)).toEqual([3, 6])
})
