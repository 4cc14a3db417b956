/** What the page is told: asked of the database as a reader, on the oldest PostgreSQL, too. */
import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { Changes, Data, Members, Pulse, Timeline } from '../dist/web/answers.js'
import { type Page, servePage } from '../dist/web/server.js'
import { type AdminClient, adminClient, uniqueName } from './support/database.js'
import { type PastStay, writePast } from './support/past.js'
import { type Roles, startRoles } from './support/roles.js'
import { until } from './support/until.js'

const MINUTE = 60_000
let roles: Roles
let admin: AdminClient
let page: Page

beforeAll(async () => {
  roles = await startRoles()
  admin = await adminClient()
  await admin.query(`set search_path = ${roles.schema}`)
  page = await servePage({
    connection: roles.urlOf('reader'),
    schema: roles.schema,
    host: '127.0.0.1',
    port: 0,
    diagnose: () => Promise.resolve([]),
  })
  return async () => {
    page.close()
    await admin.end()
  }
})

async function ask<T>(path: string, values: Readonly<Record<string, string | number>>): Promise<T> {
  const search = new URLSearchParams(
    Object.entries(values).map(([name, value]): [string, string] => [name, String(value)]),
  )
  const response = await fetch(`${page.url}api/${path}?${search.toString()}`)
  expect(response.status, await response.clone().text()).toBe(200)
  return (await response.json()) as T
}

/** Written into a cluster of its own; the time by the server's clock. */
async function past(
  stays: readonly Omit<PastStay, 'cluster'>[],
): Promise<{ cluster: string; nowMs: number }> {
  const cluster = uniqueName()
  await writePast(
    admin,
    stays.map((stay) => ({ ...stay, cluster })),
  )
  const { nowMs } = await ask<Pulse>('pulse', { cluster })
  return { cluster, nowMs }
}

test('contract: the pulse tells heartbeats, and another version after each change', async () => {
  const id = randomUUID()
  const { cluster, nowMs } = await past([{ id, data: 'a', joinedAgoMs: 5_000, silentMs: 3_000 }])
  const before = await ask<Pulse>('pulse', { cluster })
  expect(before.heartbeats.map(({ key }) => key)).toEqual([`${cluster}/1`])
  expect(nowMs - (before.heartbeats[0]?.atMs ?? 0)).toBeGreaterThan(2_999)
  expect(before.clusters).toContainEqual({ name: cluster, members: 1 })
  await admin.query('delete from members where id = $1', [id])
  const { version } = await ask<Changes>('changes', { cluster })
  expect(version).not.toBe(before.version)
})

test('contract: members are told by token, with the leader; those of a time as they were then', async () => {
  const { cluster, nowMs } = await past([
    { data: 'gone', joinedAgoMs: 9 * MINUTE, leftAgoMs: 4 * MINUTE, reason: 'crashed' },
    { data: 'new', joinedAgoMs: 8 * MINUTE, updates: [{ agoMs: 2 * MINUTE, data: 'newer' }] },
  ])
  const now = await ask<Members>('members', { cluster })
  expect(now.members).toMatchObject([{ token: 2, data: 'newer', leads: true, ttlMs: 15_000 }])
  const then = await ask<Members>('members', { cluster, at: nowMs - 5 * MINUTE })
  expect(then.members).toMatchObject([
    { token: 1, data: 'gone', leads: true, heartbeatAtMs: null },
    { token: 2, data: 'new', leads: false },
  ])
  expect(then.total).toBe(2)
})

test('contract: changes are told newest first, up to a time, also what somebody who left had carried', async () => {
  const { cluster, nowMs } = await past([
    { data: 'gone', joinedAgoMs: 9 * MINUTE, leftAgoMs: 4 * MINUTE, reason: 'expired' },
    { data: 'here', joinedAgoMs: 3 * MINUTE },
  ])
  const { changes, more } = await ask<Changes>('changes', { cluster, at: nowMs - 3.5 * MINUTE, limit: 1 })
  expect(changes).toMatchObject([{ kind: 'left', reason: 'expired', data: 'gone', revision: 2 }])
  expect(more).toBe(true)
  expect((await ask<Changes>('changes', { cluster })).changes.map(({ revision }) => revision)).toEqual([
    3, 2, 1,
  ])
})

test('contract: of who was evicted it is told by whom, and why', async () => {
  const by = { role: 'ops', note: 'a bad build' }
  const { cluster } = await past([
    { data: 'bad', joinedAgoMs: 9 * MINUTE, leftAgoMs: 4 * MINUTE, reason: 'removed', by },
  ])
  const { changes } = await ask<Changes>('changes', { cluster })
  expect(changes).toMatchObject([
    { kind: 'left', by_role: 'ops', note: 'a bad build' },
    { kind: 'joined', note: null },
  ])
})

test('contract: lists carry the beginning of data, and all of it is told when asked', async () => {
  const data = `</script><img src=x onerror=alert(1)>\u0000\u202e${'💥'.repeat(100_000)}`
  const id = randomUUID()
  const { cluster } = await past([{ id, data, joinedAgoMs: 1_000 }])
  const [row] = (await ask<Members>('members', { cluster })).members
  expect(Array.from(row?.data ?? '')).toHaveLength(240)
  expect(row?.isCut).toBe(true)
  const whole = await ask<Data>('data', { cluster, id, token: 1 })
  expect(whole.data).toBe(data.replace('\u0000', '\u2400'))
  expect((await ask<Data>('data', { cluster, id, token: 2 })).data).toBeNull()
})

test('contract: a cluster that does not exist has no rows, and is no error', async () => {
  const cluster = `'; drop table members; -- ${uniqueName()}`
  expect((await ask<Members>('members', { cluster })).members).toEqual([])
  expect((await ask<Changes>('changes', { cluster })).changes).toEqual([])
  const { stays, terms, total } = await ask<Timeline>('timeline', { cluster, from: 0, to: 8.64e15 })
  expect({ stays, terms, total }).toEqual({ stays: [], terms: [], total: 0 })
})

describe('the timeline', () => {
  test('contract: it has the stays that overlap the period, those that began before or ended after it, too', async () => {
    const { cluster, nowMs } = await past([
      { data: 'before', joinedAgoMs: 90 * MINUTE, leftAgoMs: 61 * MINUTE },
      { data: 'into', joinedAgoMs: 80 * MINUTE, leftAgoMs: 50 * MINUTE },
      { data: 'over', joinedAgoMs: 70 * MINUTE, leftAgoMs: 5 * MINUTE },
      { data: 'in', joinedAgoMs: 40 * MINUTE, leftAgoMs: 35 * MINUTE, reason: 'removed' },
      { data: 'still', joinedAgoMs: 32 * MINUTE },
      { data: 'after', joinedAgoMs: 20 * MINUTE },
    ])
    const period = { from: nowMs - 60 * MINUTE, to: nowMs - 30 * MINUTE }
    const found = await ask<Timeline>('timeline', { cluster, ...period })
    expect(found.stays.map(({ data, reason }) => [data, reason])).toEqual([
      ['into', 'deregistered'],
      ['over', 'deregistered'],
      ['in', 'removed'],
      ['still', null],
    ])
    expect(found).toMatchObject({ total: 4, membersBefore: 2 })
    expect(
      found.terms.map(({ token, fromMs }) => [token, Math.round((fromMs - period.from) / MINUTE)]),
    ).toEqual([
      [2, 0],
      [3, 10],
    ])
  })

  test('contract: who leads at a time, and how many there are, is what a look at every stay says', async () => {
    const stay = fc.record({
      joinedAgoMs: fc.integer({ min: 1, max: 100 }).map((n) => n * MINUTE),
      staysMs: fc.option(fc.integer({ min: 0, max: 40 }).map((n) => n * MINUTE + 7_000)),
    })
    await fc.assert(
      fc.asyncProperty(fc.array(stay, { minLength: 1, maxLength: 12 }), async (drawn) => {
        const { cluster, nowMs } = await past(
          drawn.map(({ joinedAgoMs, staysMs }) => {
            const left =
              staysMs === null || staysMs >= joinedAgoMs ? {} : { leftAgoMs: joinedAgoMs - staysMs }
            return { data: '', joinedAgoMs, ...left }
          }),
        )
        const [from, to] = [nowMs - 60.5 * MINUTE, nowMs - 0.5 * MINUTE]
        const { stays, terms, total, membersBefore, parts } = await ask<Timeline>('timeline', {
          cluster,
          from,
          to,
        })
        expect(total).toBe(stays.length)
        const presentAt = (ms: number) =>
          stays.filter(({ joinedAtMs, leftAtMs }) => joinedAtMs <= ms && (leftAtMs ?? Infinity) > ms)
        for (let ms = from; ms < to; ms += MINUTE / 2) {
          const leaders = terms.filter(({ fromMs, toMs }) => fromMs <= ms && (toMs ?? Infinity) > ms)
          const lowest = Math.min(...presentAt(ms).map(({ token }) => token))
          expect(leaders.map(({ token }) => token)).toEqual(lowest === Infinity ? [] : [lowest])
        }
        const last = parts.reduce((count, { joined, left }) => count + joined - left, membersBefore)
        expect([membersBefore, last]).toEqual([presentAt(from).length, presentAt(to).length])
      }),
      { numRuns: 25 },
    )
  })

  test('contract: of too many, the newest and the leader are listed, and all are counted', async () => {
    const { cluster, nowMs } = await past([
      ...Array.from({ length: 5_001 }, (_, n) => ({ data: '', joinedAgoMs: 90 * MINUTE - n })),
      { data: 'gone', joinedAgoMs: 80 * MINUTE, leftAgoMs: 10 * MINUTE },
    ])
    const { members, total } = await ask<Members>('members', { cluster })
    expect({ listed: members.length, total, first: members[0]?.token }).toEqual({
      listed: 5_000,
      total: 5_001,
      first: 1,
    })
    expect((await ask<Pulse>('pulse', { cluster })).heartbeats).toHaveLength(5_000)
    const found = await ask<Timeline>('timeline', { cluster, from: nowMs - 60 * MINUTE, to: nowMs })
    expect(found.total).toBe(5_002)
    expect(found.stays).toHaveLength(300)
    expect(found.stays[0]?.token).toBe(1)
    expect(found.stays.map(({ data }) => data)).toContain('gone')
  })
})

test('contract: a connection that is lost while nothing is asked costs no question', async () => {
  const of = [roles.nameOf.reader]
  await admin.query('select pg_terminate_backend(pid) from pg_stat_activity where usename = $1', of)
  await until(
    async () => {
      const { rowCount } = await admin.query('select from pg_stat_activity where usename = $1', of)
      return rowCount === 0
    },
    { message: 'it is gone' },
  )
  // Asked anew: answers are kept for a second.
  await ask<Changes>('changes', { cluster: uniqueName() })
})

test('contract: the answers to a reader need one connection, which does nothing but read', async () => {
  const [row] = (
    await admin.query<{ count: string; state: string }>(
      `select count(*), min(state) as state from pg_stat_activity where usename = $1`,
      [roles.nameOf.reader],
    )
  ).rows
  expect(row).toEqual({ count: '1', state: 'idle' })
  let readOnly: unknown
  const asking = await servePage({
    connection: roles.urlOf('reader'),
    schema: roles.schema,
    host: '127.0.0.1',
    port: 0,
    diagnose: async (query) => {
      readOnly = await query('show transaction_read_only', [])
      return []
    },
  })
  onTestFinished(() => asking.close())
  await fetch(`${asking.url}api/findings`)
  expect(readOnly).toEqual([{ transaction_read_only: 'on' }])
})
