/** The owner has renewed the members' channel: nobody believes in the old key any longer. */
import { createHmac } from 'node:crypto'
import type { PostgresCluster } from 'pg-membership'
import { expect, test } from 'vitest'
import { type AdminClient, databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { typeMembers } from '../support/event-log.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import { until } from '../support/until.js'
import { countOf } from '../support/wire.js'

const schema = await freshSchema()
const NEVER_MS = 600_000

interface Channel {
  readonly name: string
  readonly key: Buffer
}

async function channelOf(admin: AdminClient, cluster: string): Promise<Channel> {
  const { rows } = await admin.query<Channel>(`select * from ${schema}.members_channel($1)`, [cluster])
  if (!rows[0]) throw new Error('no channel')
  return rows[0]
}

function signed({ key }: Channel, body: string): string {
  return `${createHmac('sha256', key).update(body).digest('hex')}\n${body}`
}

test('promise 15: also where nothing changes, a heartbeat or a poll after the owner has renewed the channel ends the belief in the old key', async () => {
  const [admin, name] = [await openAdmin(), uniqueName()]
  await typeMembers(admin, schema, name, ['one'])
  const watching = async (options: {
    heartbeatMs: number
    pollMs: number
  }): Promise<{ cluster: PostgresCluster; asked: () => number; reads: () => number }> => {
    const proxy = await openProxy()
    const times = { ttlMs: NEVER_MS, ...options }
    const connections = { connection: proxy.throughIt, listenConnection: databaseUrl() }
    const cluster = openCluster({ schema, name, ...connections, ...times })
    const [asked, reads] = [countOf(proxy, 'members channel'), countOf(proxy, 'changes', 'members')]
    await cluster.getMembers()
    await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
    return { cluster, asked, reads }
  }
  const beating = await watching({ heartbeatMs: 200, pollMs: NEVER_MS })
  const polling = await watching({ heartbeatMs: NEVER_MS / 2, pollMs: 200 })
  await joined(beating.cluster, { data: 'two' })
  await until(() => polling.cluster.snapshot?.revision === 2, { message: 'both show it' })
  const before = await channelOf(admin, name)
  const counted = [beating, polling].map(({ asked }) => asked())
  await admin.query(`select ${schema}.renew_members_channel($1)`, [name])
  const after = await channelOf(admin, name)
  await until(() => [beating, polling].every(({ asked }, n) => asked() > (counted[n] ?? 0)), {
    message: 'they ask for the new name and key',
  })
  // Whoever knows the old ones says that all have left. What is heard later came later.
  const { rows } = await admin.query<{ body: string }>(
    `select concat_ws(' ', c.channel, extract(epoch from pg_postmaster_start_time()), c.revision, c.stamp,
       c.revision + 1, gen_random_uuid(), c.revision + 1, c.revision + 1) || e'\\nl ' || m.id || ' ' || m.token || ' 0 ' as body
     from ${schema}.clusters c join ${schema}.members m on m.cluster = c.name where c.name = $1 limit 1`,
    [name],
  )
  const body = rows[0]?.body ?? ''
  const sent = { old: signed(before, body), new: signed(after, body) }
  await admin.query('select pg_notify($1, $2), pg_notify($3, $2)', [before.name, sent.old, after.name])
  await typeMembers(admin, schema, name, ['three'])
  for (const { cluster } of [beating, polling]) {
    await until(() => cluster.snapshot?.revision === 3, { message: 'the next change' })
    expect(cluster.snapshot?.members.map(({ data }) => data)).toEqual(['one', 'two', 'three'])
  }
  // It is not asked for again and again.
  const settled = [beating, polling].map(({ asked }) => asked())
  const { reads } = polling
  const readBefore = reads()
  await until(() => reads() > readBefore + 3, { message: 'some more polls' })
  expect([beating, polling].map(({ asked }) => asked())).toEqual(settled)
})
