import fc from 'fast-check'
import pg from 'pg'
import { migrate } from 'pg-membership'
import { afterAll, expect, test } from 'vitest'
import { adminClient, databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { joined, openAdmin, openCluster } from '../support/opened.js'
import { until } from '../support/until.js'

const NAMES = [
  'a',
  `o'brien`,
  'say "hi"',
  '$1',
  '%s',
  `'; drop schema public cascade; --`,
  '\\',
  '🐘',
  ' ',
  'ä\u0308',
]
const suffix = uniqueName('s')

/** PostgreSQL quotes them; nobody else should have to care. */
const SCHEMAS = [`${suffix}"quote`, `${suffix}'; drop`, `${suffix} Ünï 🐘`, `${suffix}%s$1`]
await Promise.all(SCHEMAS.map((schema) => migrate({ connection: databaseUrl(), schema })))
afterAll(async () => {
  await using admin = await adminClient()
  for (const schema of SCHEMAS) await admin.query(`drop schema ${pg.escapeIdentifier(schema)} cascade`)
})

test('promise 14: the same cluster in other schemas is another cluster, whatever the schemas are called', async () => {
  const admin = await openAdmin()
  for (const [turn, name] of NAMES.entries()) {
    const schemas = [...SCHEMAS, ...SCHEMAS].slice(turn % 4, (turn % 4) + 2)
    const clusters = schemas.map((schema) => openCluster({ schema, name }))
    const memberships = []
    for (const [n, cluster] of clusters.entries())
      memberships.push(await joined(cluster, { data: `${name}${n}` }))
    for (const [n, cluster] of clusters.entries()) {
      expect(await cluster.getMembers({ fresh: true })).toMatchObject([
        { id: memberships[n]?.id, data: `${name}${n}` },
      ])
      const client = await openAdmin()
      await client.query('begin')
      await memberships[n]?.fence(client)
      await client.query('commit')
    }
    const channels = new Set<string>()
    for (const schema of schemas) {
      const { rows } = await admin.query<{ channel: string }>(
        `select channel from ${pg.escapeIdentifier(schema)}.clusters where name = $1`,
        [name],
      )
      channels.add(rows[0]?.channel ?? '')
    }
    expect(channels.size).toBe(schemas.length)
    await Promise.all(clusters.map((cluster) => cluster.close()))
  }
})

test('promise 14: no two pairs of schema and cluster share a channel, and every channel is a name that PostgreSQL keeps whole', async () => {
  const admin = await openAdmin()
  const [one = '', two = ''] = SCHEMAS
  const schema = pg.escapeIdentifier(one)
  const other = pg.escapeIdentifier(two)
  const name = fc
    .string({ unit: 'binary', minLength: 1, maxLength: 60 })
    .filter((text) => !text.includes('\0'))
  await fc.assert(
    fc.asyncProperty(name, name, async (a, b) => {
      const { rows } = await admin.query<{ first: string; second: string; elsewhere: string }>(
        `select ${schema}.channel($1) as first, ${schema}.channel($2) as second, ${other}.channel($1) as elsewhere`,
        [a, b],
      )
      const { first, second, elsewhere } = rows[0] ?? {}
      expect(first).toMatch(/^[a-z0-9_]{20,62}$/)
      expect(first === second).toBe(a === b)
      expect(first).not.toBe(elsewhere)
    }),
    { numRuns: 100, examples: [['ab', 'abc']] },
  )
})

test('promise 14: clusters with any two names go their own ways: members, revisions, hints and sweeps', async () => {
  const schema = await freshSchema()
  const name = fc
    .string({ unit: 'binary', minLength: 1, maxLength: 40 })
    .filter((text) => !text.includes('\0') && Buffer.byteLength(text) <= 255)
  const data = fc.string({ unit: 'binary', maxLength: 100 })
  await fc.assert(
    fc.asyncProperty(fc.uniqueArray(name, { minLength: 2, maxLength: 2 }), data, async (names, text) => {
      const [mine = '', theirs = ''] = names.map((some) => `${some}${uniqueName('')}`)
      const never = { ttlMs: 600_000, pollMs: 600_000 }
      const [cluster, other] = [
        openCluster({ schema, name: mine, ...never }),
        openCluster({ schema, name: theirs, ...never }),
      ]
      const watched: unknown[] = []
      const watch = async (): Promise<void> => {
        for await (const members of other.watchMembers()) watched.push(members)
      }
      const watching = watch()
      await other.getMembers()
      const membership = await joined(cluster, { data: text })
      await membership.setData(`${text}!`)
      const admin = await openAdmin()
      await admin.query(`select ${schema}.sweep($1)`, [theirs])
      await joined(other)
      expect(cluster.snapshot).toMatchObject({ revision: 2, members: [{ data: `${text}!`, token: 1 }] })
      expect(other.snapshot).toMatchObject({ revision: 1, members: [{ data: '', token: 1 }] })
      await cluster.close()
      expect(await other.getMembers({ fresh: true })).toHaveLength(1)
      await other.close()
      await watching
      expect(watched).toHaveLength(2)
      await admin.end()
    }),
    { numRuns: 10, examples: [[['%', '_'], `'; drop table members; --`]] },
  )
}, 60_000)

test('promise 14: clusters that share connections stay apart, and the last to close closes them', async () => {
  const schema = await freshSchema()
  const first = openCluster({ schema, name: uniqueName() })
  const others = Array.from({ length: 4 }, () =>
    openCluster({ schema, name: uniqueName(), connection: first.connections }),
  )
  const clusters = [first, ...others]
  const ids: string[] = []
  for (const cluster of clusters) ids.push((await joined(cluster)).id)
  for (const [n, cluster] of clusters.entries()) {
    expect((await cluster.getMembers({ fresh: true })).map(({ id }) => id)).toEqual([ids[n]])
    await until(() => cluster.status.mode === 'listening', { message: 'each listens' })
  }
  await first.close()
  const [second] = others
  const late = await joined(second ?? first)
  await late.setData('still served')
  expect(second?.snapshot?.members).toHaveLength(2)
})
