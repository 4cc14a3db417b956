import { expect, onTestFinished, test } from 'vitest'
import { bundleOf } from '../support/bundles.js'
import { Chance } from '../support/chance.js'
import { databaseUrl, freshSchema, uniqueName } from '../support/database.js'
import { openAdmin, openProxy } from '../support/opened.js'
import { size } from '../support/size.js'
import type { TcpProxy } from '../support/tcp-proxy.js'
import { until } from '../support/until.js'
import { Worker } from '../support/worker.js'
import type { LeaderCommands, LeaderTold } from './leader-worker.js'

const MAIN = bundleOf(new URL('leader-main.js', import.meta.url))
const CANDIDATES = size(5, 3)
const MS = size(300_000, 8_000)
const TTL_MS = 1_500

const schema = await freshSchema()

interface Candidate {
  readonly worker: Worker<LeaderCommands, LeaderTold>
  readonly proxy: TcpProxy
}

test(
  `promises 13 and 16: leaders that are killed, frozen, cut off and resign, for ${MS / 1_000} s: no two terms' fenced writes interleave, and somebody leads soon`,
  async () => {
    const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32))
    const hint = `(SEED=${seed})`
    const chance = new Chance(seed)
    const admin = await openAdmin()
    const name = uniqueName()
    const ledger = `${schema}.ledger`
    await admin.query(`create table ${ledger} (n bigint primary key, token bigint)`)
    await admin.query(`create table ${ledger}_counter (n bigint)`)
    await admin.query(`insert into ${ledger}_counter values (0)`)

    const all: Candidate[] = []
    const living = new Map<string, Candidate>()
    const start = async (): Promise<void> => {
      const proxy = await openProxy()
      const worker = new Worker<LeaderCommands, LeaderTold>(MAIN)
      onTestFinished(() => worker.kill())
      await worker.ready
      const candidate = { worker, proxy }
      all.push(candidate)
      const connection = proxy.throughIt
      const options = { connection, direct: databaseUrl(), schema, name, ttlMs: TTL_MS, ledger }
      living.set((await worker.ask('start', options)).id, candidate)
    }
    for (let n = 0; n < CANDIDATES; n++) await start()

    const lastToken = async (): Promise<number> => {
      const { rows } = await admin.query<{ token: string | null }>(
        `select max(token) as token from ${ledger}`,
      )
      return Number(rows[0]?.token ?? 0)
    }
    const first = async (): Promise<{ id: string; token: number } | undefined> => {
      const { rows } = await admin.query<{ id: string; token: string }>(
        `select id, token from ${schema}.members where cluster = $1 order by token limit 1`,
        [name],
      )
      return rows[0] && { id: rows[0].id, token: Number(rows[0].token) }
    }
    const pass = async (ms: number): Promise<void> => {
      const startedMs = performance.now()
      await until(() => performance.now() > startedMs + ms, { message: 'time passes' })
    }

    const crashes: number[] = []
    /** How often somebody else came to lead for certain. */
    let successions = 0
    const troubles = {
      kill: async (id: string, { worker }: Candidate, token: number) => {
        living.delete(id)
        const startedMs = performance.now()
        await worker.kill()
        await until(async () => (await lastToken()) > token, {
          withinMs: 15_000,
          message: `somebody leads after ${token} was killed ${hint}`,
        })
        crashes.push(performance.now() - startedMs)
        successions += 1
        await start()
      },
      freeze: async (_id: string, { worker }: Candidate) => {
        worker.signal('SIGSTOP')
        await pass(chance.below(3 * TTL_MS))
        worker.signal('SIGCONT')
      },
      partition: async (_id: string, { proxy }: Candidate) => {
        if (chance.below(2) === 0) await proxy.cut()
        else proxy.freeze()
        await pass(chance.below(3 * TTL_MS))
        proxy.thaw()
        await proxy.restore()
      },
      resign: async (_id: string, { worker }: Candidate, token: number) => {
        await worker.ask('resign')
        await until(async () => (await lastToken()) > token, {
          message: `somebody leads after ${token} ${hint}`,
        })
        successions += 1
      },
    }
    const kinds = Object.keys(troubles) as (keyof typeof troubles)[]
    const startedMs = performance.now()
    for (let n = 0; n < kinds.length || performance.now() < startedMs + MS; n++) {
      const leader = await until(
        async () => {
          const member = await first()
          const leads = member !== undefined && living.has(member.id) && (await lastToken()) === member.token
          return leads ? member : undefined
        },
        { withinMs: 30_000, message: `somebody leads, and writes ${hint}` },
      )
      const candidate = living.get(leader.id)
      const kind = kinds[n] ?? chance.pick(kinds)
      if (candidate) await troubles[kind](leader.id, candidate, leader.token)
    }
    for (const { worker } of living.values()) await worker.ask('close')

    const { rows } = await admin.query<{ n: string; token: string }>(
      `select n, token from ${ledger} order by n`,
    )
    expect(
      rows.map(({ n }) => Number(n)),
      `no write is lost or doubled ${hint}`,
    ).toEqual(rows.map((_, n) => n + 1))
    const tokens = rows.map(({ token }) => Number(token))
    expect(tokens, `no two terms interleave ${hint}`).toEqual(tokens.toSorted((a, b) => a - b))
    expect(new Set(tokens).size, hint).toBeGreaterThan(successions)
    expect(successions, hint).toBeGreaterThan(1)
    const written = new Set(rows.map(({ n }) => Number(n)))
    for (const { worker } of all) {
      for (const { n } of worker.toldOf('committed')) expect(written.has(n), `${n} ${hint}`).toBe(true)
      expect([worker.toldOf('trouble'), worker.toldOf('uncaught')], hint).toEqual([[], []])
    }
    if (process.env.LONG === 'yes') {
      const ms = crashes.toSorted((a, b) => a - b).map(Math.round)
      process.stdout.write(
        `${tokens.length} writes in ${new Set(tokens).size} terms; ms from a crash to the next write: ${String(ms)}\n`,
      )
    }
  },
  MS + 120_000,
)
