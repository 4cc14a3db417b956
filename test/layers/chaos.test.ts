/**
 * Processes claim keys and use nonces in fenced transactions, while they are killed, frozen and cut off at random. What
 * they did is in tables, written by the same transactions: these tables must show that no key had two owners at a time,
 * and where each nonce is.
 *
 * In `npm test` it is short. `npm run test:long` has the long form: 20 processes, 10,000 keys, 100,000 nonces.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { NoncePool } from 'pg-membership/nonces'
import { expect, test } from 'vitest'
import { freshSchema, uniqueName } from '../support/database.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import { size } from '../support/size.js'
import { until } from '../support/until.js'
import { startTaker, type Taker } from './taker.js'

const isLong = process.env.LONG === 'yes'
const PROCESSES = size(20, 3)
const KEYS = size(10_000, 12)
const NONCES = size(100_000, 400)
const SECONDS = Number(process.env.SECONDS ?? size(120, 4))
const TTL_MS = size(3_000, 1_000)

test(
  'promises 18, 19 and 20: no key ever has two owners inside fenced transactions, and each nonce is used once or free, whoever dies, freezes or is cut off',
  async () => {
    const [schema, admin, name] = [await freshSchema(), await openAdmin(), uniqueName()]
    const table = `${schema}.chaos`
    await admin.query(`
      create table ${table}_inside (key text not null, member uuid not null, since timestamptz not null, until timestamptz);
      create table ${table}_used (value text not null)`)
    const witness = openCluster({ schema, name, ttlMs: TTL_MS })
    const membership = await joined(witness)
    const pool = new NoncePool({ cluster: witness, membership, name: 'chaos', size: 1 })
    expect(await pool.stock(Array.from({ length: NONCES }, (_, n) => `nonce ${n}`))).toBe(NONCES)

    const all: Taker[] = []
    const start = async (): Promise<{ taker: Taker; proxy: Awaited<ReturnType<typeof openProxy>> }> => {
      const [taker, proxy] = [await startTaker(), await openProxy()]
      all.push(taker)
      await taker.ask('open', {
        name,
        schema,
        connection: proxy.throughIt,
        ttlMs: TTL_MS,
        heartbeatMs: TTL_MS / 4,
        size: 20,
        closeTimeoutMs: 1_000,
      })
      await taker.ask('work', { url: proxy.throughIt, table, keys: KEYS })
      return { taker, proxy }
    }
    const running = await Promise.all(Array.from({ length: PROCESSES }, start))

    const done = { killed: 0, frozen: 0, cut: 0 }
    const victims = new Map<number, Promise<void>>()
    const strike = async (n: number): Promise<void> => {
      const victim = running[n]
      if (victim === undefined) return
      const what = (['killed', 'frozen', 'cut'] as const)[(done.killed + done.frozen + done.cut) % 3] ?? 'cut'
      done[what] += 1
      if (what === 'killed') {
        await victim.taker.kill()
        running[n] = await start()
      } else if (what === 'frozen') {
        // Often longer than the ttl: it is removed, and wakes up in the middle of what it did.
        victim.taker.signal('SIGSTOP')
        await sleep(TTL_MS * (0.5 + Math.random() * 1.5))
        victim.taker.signal('SIGCONT')
      } else {
        await victim.proxy.cut()
        await sleep(Math.random() * TTL_MS)
        await victim.proxy.restore()
      }
    }
    const end = Date.now() + SECONDS * 1_000
    while (Date.now() < end) {
      await sleep(Math.random() * 600)
      const n = Math.floor(Math.random() * running.length)
      // Two at a time, so that others go on.
      if (victims.has(n) || victims.size >= 2) continue
      victims.set(
        n,
        strike(n).finally(() => victims.delete(n)),
      )
    }
    await Promise.all(victims.values())
    for (const { taker } of running.slice(1)) void taker.ask('rest')
    await running[0]?.taker.kill()
    await Promise.all(running.slice(1).map(({ taker }) => taker.ask('rest')))
    await until(async () => (await witness.getMembers({ fresh: true })).length === 1, {
      withinMs: 4 * TTL_MS + 10_000,
      message: 'only the witness is left',
    })

    const inside = `select key, member, tstzrange(since, until, '[]') as period, ctid from ${table}_inside`
    const { rows: twice } = await admin.query(
      `select a.key, a.member, b.member as other from (${inside}) a join (${inside}) b
       on a.key = b.key and a.member <> b.member and a.period && b.period limit 5`,
    )
    expect(twice, 'two owners at a time').toEqual([])
    const { rows: count } = await admin.query<{ inside: number; owners: number }>(
      `select count(*)::int as inside, count(distinct member)::int as owners from ${table}_inside`,
    )
    expect(count[0]?.inside).toBeGreaterThan(PROCESSES)
    expect(count[0]?.owners).toBeGreaterThan(1)
    expect((await admin.query(`select from ${schema}.claims`)).rowCount, 'claims are left').toBe(0)

    const { rows: wrong } = await admin.query(
      `select value, n.state, count(u.value) as times from ${schema}.nonces_now n full join ${table}_used u using (value)
       group by 1, 2 having n.state is distinct from case count(u.value) when 0 then 'free' when 1 then 'used' end limit 5`,
    )
    expect(wrong, 'not used once, and not free').toEqual([])
    const { rows: states } = await admin.query<{ state: string; n: number }>(
      `select state, count(*)::int as n from ${schema}.nonces_now group by 1 order by 1`,
    )
    expect(states.reduce((sum, { n }) => sum + n, 0)).toBe(NONCES)
    expect(states.find(({ state }) => state === 'used')?.n).toBeGreaterThan(PROCESSES)
    expect(all.flatMap((taker) => [...taker.toldOf('trouble'), ...taker.toldOf('uncaught')])).toEqual([])
    if (isLong) process.stdout.write(`${JSON.stringify({ ...done, ...count[0], states })}\n`)
  },
  60_000 + SECONDS * 3_000,
)
