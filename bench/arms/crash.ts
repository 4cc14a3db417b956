/**
 * How soon a process that is killed is gone from the snapshots of all others, at the default ttl of 15 s; and how
 * often they sweep. All processes share the machine with the database.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { hrtime } from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { type Summary, summary } from '../lib/stats.js'

interface Sighting {
  readonly id: string
  readonly ids: readonly string[]
  /** Nanoseconds of the clock that all processes of a machine share. */
  readonly at: string
}

const SWEEPING_MS = 10_000
const PATIENCE_MS = 180_000
const MEMBER = fileURLToPath(new URL('../crash-member.js', import.meta.url))

class Member {
  readonly #process: ChildProcess
  #seen: Sighting | undefined
  /** What to compare each sighting with. */
  onSight: () => void = () => undefined

  constructor(connection: string, cluster: string) {
    this.#process = fork(MEMBER, [connection, cluster], { execArgv: [] })
    this.#process.on('message', (message: Sighting | { sweeps: number }) => {
      if (!('ids' in message)) return
      this.#seen = message
      this.onSight()
    })
  }

  get id(): string {
    return this.#seen?.id ?? ''
  }

  get seen(): readonly string[] {
    return this.#seen?.ids ?? []
  }

  get seenAt(): bigint {
    return BigInt(this.#seen?.at ?? 0)
  }

  async sweeps(): Promise<number> {
    const answer = new Promise<number>((resolve) => {
      const take = (message: { sweeps?: number }): void => {
        if (message.sweeps === undefined) return
        this.#process.off('message', take)
        resolve(message.sweeps)
      }
      this.#process.on('message', take)
    })
    this.#process.send('sweeps')
    return answer
  }

  async kill(): Promise<void> {
    const gone = once(this.#process, 'exit')
    this.#process.kill('SIGKILL')
    await gone
  }
}

export interface Crashes {
  readonly processes: number
  /** Milliseconds from SIGKILL until the last of the others has seen it. */
  readonly gone: Summary
  readonly reasons: string
  readonly sweepsPerSecond: number
}

export async function crashes(connection: string, size: number, kills: number): Promise<Crashes> {
  const admin = new pg.Client({ connectionString: connection })
  await admin.connect()
  const cluster = `of ${String(size)}`
  const members = Array.from({ length: size }, () => new Member(connection, cluster))
  const times: number[] = []
  for (let n = 0; n < kills; n++) {
    await settled(admin, cluster, members)
    // The kill comes at a random moment between two sweeps.
    await sleep(Math.random() * 500)
    const [victim, ...others] = members.splice(0)
    if (victim === undefined) throw new Error('Nobody is left')
    const killed = hrtime.bigint()
    void victim.kill()
    await saw(others, (member) => !member.seen.includes(victim.id))
    times.push(
      ...others
        .map(({ seenAt }) => Number(seenAt - killed) / 1e6)
        .toSorted((a, b) => b - a)
        .slice(0, 1),
    )
    members.push(...others, new Member(connection, cluster))
  }
  await settled(admin, cluster, members)
  const before = await sweepsOf(members)
  const startedMs = performance.now()
  await sleep(SWEEPING_MS)
  const rate = ((await sweepsOf(members)) - before) / ((performance.now() - startedMs) / 1_000)
  const { rows } = await admin.query<{ reason: string; n: string }>(
    `select reason, count(*) as n from pgmembership.events where cluster = $1 and kind = 'left' group by reason`,
    [cluster],
  )
  const reasons = rows.map(({ reason, n }) => `${n} ${reason}`).join(', ')
  await Promise.all(members.map((member) => member.kill()))
  await admin.end()
  return { processes: size, gone: summary(times), reasons, sweepsPerSecond: rate }
}

/** Waits until all see all, and all have been heard since sweeping began: from then on crash detection works. */
async function settled(admin: pg.Client, cluster: string, members: readonly Member[]): Promise<void> {
  await saw(members, ({ seen }) => seen.length === members.length)
  const deadline = performance.now() + PATIENCE_MS
  for (;;) {
    const { rows } = await admin.query<{ heard: boolean }>(
      `select bool_and(m.heartbeat_at >= s.resumed_at) as heard
       from pgmembership.members m join pgmembership.sweeps s using (cluster) where cluster = $1`,
      [cluster],
    )
    if (rows[0]?.heard === true) return
    if (performance.now() > deadline) throw new Error('Not all members have been heard')
    await sleep(20)
  }
}

async function saw(members: readonly Member[], condition: (member: Member) => boolean): Promise<void> {
  const late = sleep(PATIENCE_MS, 'late', { ref: false })
  const all = new Promise<void>((resolve) => {
    const look = (): void => {
      if (members.every(condition)) resolve()
    }
    for (const member of members) member.onSight = look
    look()
  })
  if ((await Promise.race([all, late])) === 'late') throw new Error('Not all members saw it')
}

async function sweepsOf(members: readonly Member[]): Promise<number> {
  const counts = await Promise.all(members.map((member) => member.sweeps()))
  return counts.reduce((sum, count) => sum + count, 0)
}
