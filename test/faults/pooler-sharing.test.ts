import { migrate } from 'pg-membership'
import { expect, test } from 'vitest'
import { catalogOf } from '../support/catalog.js'
import { type AdminClient, databaseUrl, freshSchema, newSchemaName, uniqueName } from '../support/database.js'
import { storyOf, tableOf } from '../support/event-log.js'
import { joined, openAdmin, openCluster, openPgBouncer } from '../support/opened.js'
import { until } from '../support/until.js'

const schema = await freshSchema()

/** What the connection that a client gets from a pooler carries, beyond what every new one does. */
async function leftOn(client: AdminClient): Promise<object[]> {
  const { rows } = await client.query<object>(`
    select 'setting' as what, name, setting from pg_settings
    -- PgBouncer itself keeps those in step with its clients.
    where source = 'session' and name not in ('application_name', 'client_encoding', 'DateStyle', 'TimeZone', 'standard_conforming_strings')
    union all select 'channel', channel, '' from pg_listening_channels() channel
    union all select 'statement', name, '' from pg_prepared_statements
    union all select 'lock', locktype, mode from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'
    union all select 'table', relname, '' from pg_class where relpersistence = 't' and pg_table_is_visible(oid)`)
  return rows
}

test('promise 12: what a pooler hands to its next client bears no trace of the library', async () => {
  const pooler = await openPgBouncer('transaction', { settings: { default_pool_size: 1 } })
  const other = await openAdmin(pooler.url)
  const { rows: before } = await other.query<{ pid: number }>('select pg_backend_pid() as pid')
  expect(await leftOn(other)).toEqual([])

  await migrate({ connection: pooler.url, schema: newSchemaName() })
  const cluster = openCluster({
    schema,
    name: uniqueName(),
    connection: pooler.url,
    listenConnection: databaseUrl(),
  })
  const membership = await joined(cluster, { data: 'one' })
  await membership.setData('two')
  await cluster.getMembers({ fresh: true })
  expect(await leftOn(other)).toEqual([])
  await cluster.close()

  expect(await leftOn(other)).toEqual([])
  const { rows: after } = await other.query<{ pid: number }>('select pg_backend_pid() as pid')
  expect(after, 'the same server connection').toEqual(before)
})

test.each(['transaction', 'session'] as const)(
  'promises 1 and 13: behind PgBouncer in %s mode a member registers, changes, is fenced, and leaves',
  async (mode) => {
    const [pooler, admin] = [await openPgBouncer(mode), await openAdmin()]
    const cluster = openCluster({ schema, name: uniqueName(), connection: pooler.url })
    const membership = await joined(cluster, { data: 'one' })
    expect(cluster.snapshot?.members).toMatchObject([{ id: membership.id, data: 'one' }])
    await membership.setData('two')
    expect(cluster.snapshot).toMatchObject(await tableOf(admin, schema, cluster.name))

    const { token } = await membership.register()

    const client = await openAdmin(pooler.url)
    await client.query('begin')
    await membership.fence(client)
    const leaving = membership.deregister()
    // What is sent meanwhile shares other server connections: the fence holds where its transaction is.
    await until(() => membership.lease === undefined, { message: 'it is leaving' })
    await cluster.getMembers({ fresh: true })
    expect(cluster.snapshot?.members, 'the fence holds').toHaveLength(1)
    await client.query('commit')
    await leaving
    await client.query('begin')
    const fence = client.query(`select ${schema}.fence($1, $2)`, [membership.id, token])
    await expect(fence).rejects.toMatchObject({ code: 'MB001' })
    expect(cluster.snapshot?.members).toEqual([])
    expect(await storyOf(admin, schema, cluster.name)).toEqual([
      'joined registered',
      'updated data',
      'left deregistered',
    ])
  },
)

test('contract: migrate works through a pooler in transaction mode, for several at once', async () => {
  const [pooler, admin] = [await openPgBouncer('transaction'), await openAdmin()]
  const theirs = newSchemaName()
  const attempts = Array.from({ length: 4 }, () => migrate({ connection: pooler.url, schema: theirs }))
  expect((await Promise.all(attempts)).flat()).toEqual(['0001_membership'])
  expect(await catalogOf(admin, theirs)).toEqual(await catalogOf(admin, schema))
})

test('contract: migrate says why it cannot where a pooler forbids transactions, and leaves nothing', async () => {
  const [pooler, admin] = [await openPgBouncer('statement'), await openAdmin()]
  const theirs = newSchemaName()
  await expect(migrate({ connection: pooler.url, schema: theirs })).rejects.toThrow(
    'transaction blocks not allowed in statement pooling mode',
  )
  const { rowCount } = await admin.query('select from pg_namespace where nspname = $1', [theirs])
  expect(rowCount).toBe(0)
})
