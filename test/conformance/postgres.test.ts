import { expect, test } from 'vitest'
import { adminClient, uniqueName } from '../support/database.js'
import { until } from '../support/until.js'
import { fenced, PostgresHarness } from './postgres-harness.js'
import { conformance } from './suite.js'

conformance('PostgresCluster', () => PostgresHarness.start())

test('promise 13: the fence of an older registration is refused after registering again', async () => {
  const harness = await PostgresHarness.start()
  await using admin = await adminClient()
  await using cluster = harness.open(uniqueName())
  const membership = cluster.createMembership()
  await membership.register()

  const recorded: { text: string; values: unknown[] }[] = []
  await membership.fence({
    query: (text, values) => {
      recorded.push({ text, values })
      return Promise.resolve()
    },
  })
  expect(recorded).toHaveLength(1)
  const older = async (): Promise<void> => {
    for (const { text, values } of recorded) await admin.query(text, values)
  }
  expect(await fenced(admin, older)).toBe('committed')
  await membership.deregister()
  expect(await fenced(admin, older)).toBe('refused')
  await membership.register()
  expect(await fenced(admin, older)).toBe('refused')
  expect(await fenced(admin, () => membership.fence(admin))).toBe('committed')
  await cluster.close()
  await harness.close()
})

test('promise 13: a member is not removed before the transaction that is fenced by it has ended', async () => {
  const harness = await PostgresHarness.start()
  await using fencing = await adminClient()
  await using admin = await adminClient()
  await using cluster = harness.open(uniqueName())
  const membership = cluster.createMembership({ onLost: 'stay-out' })
  const lease = await membership.register()
  const members = `${harness.schema}.members`

  await fencing.query('begin')
  await membership.fence(fencing)
  await admin.query('begin')
  await admin.query(
    `update ${harness.schema}.sweeps set resumed_at = now() - interval '1 day', swept_at = clock_timestamp()`,
  )
  await admin.query(`update ${members} set heartbeat_at = now() - interval '1 day' where id = $1`, [
    membership.id,
  ])
  await admin.query(`select ${harness.schema}.sweep($1)`, [cluster.name])
  expect((await admin.query(`select from ${members} where id = $1`, [membership.id])).rowCount).toBe(1)
  await admin.query('rollback')
  await admin.query(`set lock_timeout = '100ms'`)
  await expect(admin.query(`delete from ${members} where id = $1`, [membership.id])).rejects.toMatchObject({
    code: '55P03',
  })
  expect(lease.signal.aborted).toBe(false)
  await fencing.query('commit')

  await harness.remove(membership.id, 'expired')
  await until(() => lease.signal.aborted, { message: 'the lease ends' })
  expect(await harness.inTransaction((client) => membership.fence(client))).toBe('refused')
  await cluster.close()
  await harness.close()
})
