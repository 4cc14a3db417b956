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
