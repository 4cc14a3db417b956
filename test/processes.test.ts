import type { PostgresClusterOptions } from 'pg-membership'
import { expect, test } from 'vitest'
import { Chance } from './support/chance.js'
import { databaseUrl, freshSchema, uniqueName } from './support/database.js'
import { digestOf } from './support/digest.js'
import { expectWholeLog, replay, seesNoGap, tableOf } from './support/event-log.js'
import { openAdmin } from './support/opened.js'
import { size } from './support/size.js'
import { until } from './support/until.js'
import { startWorker, type Worker } from './support/worker.js'

const PROCESSES = size(6, 4)
const CHANGES = size(1_500, 500)
const DEATHS = size(6, 3)
const TTL_MS = 2_000

const schema = await freshSchema()

test('promises 2, 3 and 4: processes join, change, leave and are killed; every reader follows the log, and the log is the table', async () => {
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32))
  const hint = `(SEED=${seed})`
  const chance = new Chance(seed)
  const admin = await openAdmin()
  const cluster = uniqueName()
  const options: PostgresClusterOptions = { connection: databaseUrl(), schema, name: cluster, ttlMs: TTL_MS }

  const all: Worker[] = []
  /** Of each process, a member that stays as long as the process does, whatever its lanes do. */
  const resident = new Map<Worker, string>()
  const killed: Worker[] = []
  const start = async (): Promise<Worker> => {
    const worker = await startWorker()
    all.push(worker)
    await worker.ask('open', { ...options, ...(chance.below(6) === 0 && { listenConnection: false }) })
    await worker.ask('follow')
    resident.set(worker, (await worker.ask('join', { data: `${worker.pid} stays` })).id)
    await worker.ask('churn', { seed: chance.below(2 ** 31), lanes: 1 + chance.below(3) })
    return worker
  }
  const living = await Promise.all(Array.from({ length: PROCESSES }, start))

  let nextDeath = 150
  let deaths = 0
  let revision = 0
  let whole = true
  await until(
    async () => {
      // In one view of the database, whatever is going on: the log ends where the cluster is.
      whole &&= await seesNoGap(admin, schema, cluster)
      ;({ revision } = await tableOf(admin, schema, cluster))
      if (deaths >= DEATHS && revision >= CHANGES) return true
      if (revision < nextDeath) return false
      const victims = [1, 2].flatMap(() => living.splice(chance.below(living.length), 1))
      for (const [n, victim] of victims.entries()) {
        deaths += 1
        // Of the two, one is killed; the other one may have left before.
        if (n > 0 && chance.below(2) === 0) {
          await victim.ask('rest')
          await victim.ask('close')
        } else killed.push(victim)
        await victim.kill()
      }
      living.push(...(await Promise.all(victims.map(start))))
      nextDeath = revision + chance.below(350)
      return false
    },
    {
      withinMs: 240_000,
      message: () => `${CHANGES} changes and ${DEATHS} deaths; ${revision} and ${deaths} ${hint}`,
    },
  )
  expect(whole, `at every moment the log ended where the cluster was ${hint}`).toBe(true)
  await Promise.all(living.map((worker) => worker.ask('rest')))

  // The members of the dead go, and that is the last change. What the dead had sent may still be under way.
  const pids = new Set(living.map(({ pid }) => String(pid)))
  const sessions = all
    .filter((worker) => !living.includes(worker))
    .map(({ pid }) => `pg-membership % ${pid} %`)
  await until(
    async () => {
      const { rowCount } = await admin.query(
        'select from pg_stat_activity where application_name like any ($1)',
        [sessions],
      )
      const { members } = await tableOf(admin, schema, cluster)
      return rowCount === 0 && members.every(({ data }) => pids.has(/\d+/.exec(data)?.[0] ?? ''))
    },
    { withinMs: 2 * TTL_MS + 5_000, message: `the members of the dead are gone ${hint}` },
  )
  for (const worker of living) {
    const shown = async (): Promise<true> => {
      const table = await tableOf(admin, schema, cluster)
      expect(await worker.ask('snapshot')).toEqual(table)
      return true
    }
    await until(shown, { message: `process ${worker.pid} shows the table ${hint}` })
  }

  await Promise.all(living.map((worker) => worker.ask('close')))

  const events = await expectWholeLog(admin, schema, cluster, hint)
  const digests = new Map<number, string>([[0, digestOf([])]])
  replay(events, (revision, members) => digests.set(revision, digestOf(members)))
  for (const worker of all) {
    expect(worker.toldOf('uncaught'), hint).toEqual([])
    expect(worker.toldOf('trouble'), hint).toEqual([])
    expect(worker.output, hint).toBe('')
    const snapshots = worker.toldOf('snapshot')
    expect(snapshots.length, hint).toBeGreaterThan(0)
    for (const [n, { revision, digest }] of snapshots.entries()) {
      const before = snapshots[n - 1]?.revision ?? -1
      if (revision < before) expect.fail(`a snapshot went back from ${before} to ${revision} ${hint}`)
      if (digest !== digests.get(revision))
        expect.fail(`what was seen of revision ${revision} never was ${hint}`)
    }
    const watched = worker.toldOf('watched').map(({ revision }) => revision)
    expect(watched.length, hint).toBeGreaterThan(0)
    expect(watched, `a watcher went back ${hint}`).toEqual(watched.toSorted((a, b) => a - b))
  }
  for (const worker of killed) {
    const last = events.findLast(({ member }) => member === resident.get(worker))
    expect(last, hint).toMatchObject({
      kind: 'left',
      reason: expect.stringMatching(/^(crashed|expired)$/) as string,
    })
  }
}, 300_000)
