import { execFile } from 'node:child_process'
import diagnostics from 'node:diagnostics_channel'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { Member } from 'pg-membership'
import { beforeAll, expect, onTestFinished, test } from 'vitest'
import { type AdminClient, adminClient, databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { eventsOf, replay, tableOf } from '../support/event-log.js'
import { openAdmin, openCluster, openProxy } from '../support/opened.js'
import { size } from '../support/size.js'
import { until } from '../support/until.js'
import { sends } from '../support/wire.js'

const schema = await freshSchema()
const MIB = 1_048_576
const PATIENCE_MS = 120_000
const LARGE_MIB = size(100, 30)

/** Members that carry so many bytes each, and that nobody sweeps. */
async function typeLarge(admin: AdminClient, cluster: string, count: number, bytes: number): Promise<void> {
  await admin.query(
    `insert into ${schema}.members (id, cluster, ttl, data)
     select gen_random_uuid(), $1, '1 day', convert_to(substr(repeat(md5(n::text), $3 / 32 + 1), 1, $3), 'UTF8')
     from generate_series(1, $2) n`,
    [cluster, count, bytes],
  )
}

/** All that tells a member from another, in little memory. */
function outline(members: readonly Member[] | undefined): string[] {
  return (members ?? []).map(
    ({ id, token, data }) => `${id} ${String(token)} ${data.slice(0, 40)} ${String(data.length)}`,
  )
}

async function outlineOf(admin: AdminClient, cluster: string): Promise<string[]> {
  const { rows } = await admin.query<{ line: string }>(
    `select id || ' ' || token || ' ' || convert_from(substr(data, 1, 40), 'UTF8') || ' ' || octet_length(data) as line
     from ${schema}.members where cluster = $1 order by token`,
    [cluster],
  )
  return rows.map(({ line }) => line)
}

function onChannel(channel: string, name: string, note: (message: object) => void): void {
  const hear = (message: unknown): void => {
    if ((message as { readonly cluster: string }).cluster === name) note(message as object)
  }
  diagnostics.subscribe(`pg-membership:${channel}`, hear)
  onTestFinished(() => void diagnostics.unsubscribe(`pg-membership:${channel}`, hear))
}

const LARGE = uniqueName('large')

beforeAll(async () => {
  await using admin = await adminClient()
  await typeLarge(admin, LARGE, LARGE_MIB, MIB)
}, PATIENCE_MS)

test(
  `promise 2: a cluster of ${LARGE_MIB} MiB is loaded, and a registration in it stays alive meanwhile`,
  { timeout: PATIENCE_MS },
  async () => {
    const admin = await openAdmin()
    const name = LARGE
    let heartbeats = 0
    onChannel('heartbeat', name, () => (heartbeats += 1))
    const ended: object[] = []
    onChannel('lease', name, (message) => ended.push(message))
    const cluster = openCluster({ schema, name, ttlMs: 3_000, heartbeatMs: 300, closeTimeoutMs: 5_000 })
    const startedMs = performance.now()
    const lease = await cluster.createMembership({ data: 'me' }).register()
    const tookMs = performance.now() - startedMs
    expect(lease.signal.aborted).toBe(false)
    expect(ended).toEqual([expect.objectContaining({ state: 'granted' })])
    expect(heartbeats).toBeGreaterThanOrEqual(Math.floor(tookMs / 3_000))
    expect(cluster.snapshot?.members).toHaveLength(LARGE_MIB + 1)
    expect(outline(cluster.snapshot?.members)).toEqual(await outlineOf(admin, name))
  },
)

test(
  `promise 11: loading ${LARGE_MIB} MiB takes little more memory than they do`,
  { timeout: PATIENCE_MS },
  async () => {
    const loader = fileURLToPath(new URL('../support/loader.ts', import.meta.url))
    const { stdout } = await promisify(execFile)(process.execPath, [
      ...['--import', 'tsx', loader],
      ...[databaseUrl(), schema, LARGE],
    ])
    const { members, tookMib } = JSON.parse(stdout) as { members: number; tookMib: number }
    expect(members).toBe(LARGE_MIB)
    expect(tookMib).toBeLessThan(2 * LARGE_MIB + 50)
  },
)

test(
  'promise 2: a reader whose members all changed their megabytes at once catches up, with all of it at once',
  { timeout: PATIENCE_MS },
  async () => {
    const admin = await openAdmin()
    const name = uniqueName()
    const count = size(25, 8)
    await typeLarge(admin, name, count, MIB)
    const cluster = openCluster({ schema, name, ttlMs: 2_000, pollMs: 500 })
    await cluster.getMembers()
    const refreshes: object[] = []
    onChannel('snapshot', name, (message) => refreshes.push(message))
    await admin.query(
      `update ${schema}.members set data = overlay(data placing 'changed'::bytea from 1) where cluster = $1`,
      [name],
    )
    await until(() => cluster.snapshot?.revision === 2 * count, {
      withinMs: 60_000,
      message: 'it catches up',
    })
    expect(outline(cluster.snapshot?.members)).toEqual(await outlineOf(admin, name))
    expect(refreshes).toEqual([expect.objectContaining({ revision: 2 * count, full: false })])
  },
)

test(
  'promise 2: every snapshot is true to the log, however the members change while they are read',
  { timeout: PATIENCE_MS },
  async () => {
    const admin = await openAdmin()
    const name = uniqueName()
    await typeLarge(admin, name, 60, MIB / 8)
    let changes = 0
    let stopped = false
    const change = async (): Promise<void> => {
      const writer = await openAdmin()
      for (; !stopped; changes++) {
        const kind = changes % 3
        if (kind === 0) await typeLarge(writer, name, 2, changes % 2 === 0 ? 10 : MIB / 8)
        const one = `(select id from ${schema}.members where cluster = $1 order by random() limit 1)`
        if (kind === 1) {
          await writer.query(`update ${schema}.members set data = $2 where id = ${one}`, [
            name,
            Buffer.from(`change ${String(changes)}`.padEnd(MIB / 8)),
          ])
        }
        if (kind === 2) {
          // Several changes of one transaction, some of which cancel out.
          await writer.query('begin')
          await writer.query(`delete from ${schema}.members where id = ${one}`, [name])
          await typeLarge(writer, name, 1, 20)
          await writer.query(`delete from ${schema}.members where id = ${one}`, [name])
          await writer.query('commit')
        }
      }
    }
    const writing = change()
    const seen = new Map<number, string[]>()
    for (let n = 0; n < size(8, 3); n++) {
      const before = changes
      const reader = openCluster({ schema, name, listenConnection: false, pollMs: 600_000 })
      const first = outline(await reader.getMembers())
      expect(changes, 'changes while it read').toBeGreaterThan(before)
      seen.set(reader.snapshot?.revision ?? 0, first)
      const second = outline(await reader.getMembers({ fresh: true }))
      seen.set(reader.snapshot?.revision ?? 0, second)
    }
    stopped = true
    await writing
    const late = openCluster({ schema, name })
    expect(await late.getMembers()).toEqual((await tableOf(admin, schema, name)).members)
    const missing = new Set(seen.keys())
    replay(await eventsOf(admin, schema, name), (revision, members) => {
      if (!missing.delete(revision)) return
      expect(seen.get(revision), `at revision ${String(revision)}`).toEqual(outline(members))
    })
    expect(missing, 'revisions that the log does not have').toEqual(new Set())
  },
)

test(
  'promise 11: a reader that is closed while it loads a large cluster stops at once',
  { timeout: PATIENCE_MS },
  async () => {
    const proxy = await openProxy()
    const first = openCluster({ schema, name: uniqueName(), connection: proxy.throughIt })
    await first.getMembers()
    const second = openCluster({ schema, name: LARGE, connection: first.connections })
    const loading = second.getMembers()
    const closed = expect(loading).rejects.toMatchObject({ code: 'CLOSED' })
    const pages = proxy.record({ direction: 'toClient', when: sends('members') })
    await until(() => pages.length > 0, { message: 'pages arrive' })
    const startedMs = performance.now()
    await second.close()
    await closed
    expect(performance.now() - startedMs).toBeLessThan(1_500)
    await first.getMembers({ fresh: true })
  },
)
