/** Many members, many readers, many changes at once: how long until all readers show the same. */
import { hrtime } from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Membership, PostgresCluster } from 'pg-membership'

const MEMBERS = [10, 100, 1_000, 5_000]
const READERS = [2, 10, 50, 200]
const BURST = 100

export interface Convergence {
  readonly members: number
  readonly readers: number
  /** Milliseconds until all readers, opened at once, have loaded the cluster and listen. */
  readonly startMs: number
  /** From one change, and from a hundred at once, until all show it. Medians of five. */
  readonly oneMs: number
  readonly burstMs: number
}

export async function convergence(postgres: string): Promise<Convergence[]> {
  const results: Convergence[] = []
  for (const members of MEMBERS) {
    const name = `growth ${members}`
    const crowd = new PostgresCluster({ connection: postgres, name })
    await registerAll(crowd, members)
    const writer = new PostgresCluster({ connection: postgres, name })
    const changing = await registerAll(writer, BURST)
    for (const readers of READERS) {
      const started = hrtime.bigint()
      const clusters = Array.from(
        { length: readers },
        () => new PostgresCluster({ connection: postgres, name }),
      )
      await Promise.all(clusters.map((cluster) => cluster.getMembers()))
      while (clusters.some(({ status }) => status.mode !== 'listening')) await sleep(5)
      const startMs = since(started)
      await sleep(500)
      const [one, burst]: number[][] = [[], []]
      for (let n = 0; n < 5; n++) {
        one?.push(await until(clusters, changing.slice(0, 1), `one ${readers} ${n}`))
        burst?.push(await until(clusters, changing, `burst ${readers} ${n}`))
      }
      results.push({ members, readers, startMs, oneMs: middle(one), burstMs: middle(burst) })
      await Promise.all(clusters.map((cluster) => cluster.close()))
    }
    await Promise.all([crowd.close(), writer.close()])
  }
  return results
}

async function until(
  clusters: readonly PostgresCluster[],
  memberships: readonly Membership[],
  data: string,
): Promise<number> {
  const started = hrtime.bigint()
  const all = clusters.map(async (cluster) => {
    for await (const members of cluster.watchMembers()) {
      if (members.length > 0 && memberships.every(({ id }) => cluster.snapshot?.get(id)?.data === data))
        return
    }
  })
  await Promise.all([...all, ...memberships.map((membership) => membership.setData(data))])
  return since(started)
}

async function registerAll(cluster: PostgresCluster, count: number): Promise<Membership[]> {
  const memberships = Array.from({ length: count }, () => cluster.createMembership({ data: 'data' }))
  await Promise.all(memberships.map((membership) => membership.register()))
  return memberships
}

export interface Restart {
  readonly processes: number
  readonly membershipsEach: number
  /** Milliseconds until all have left and registered again, ten processes at a time. */
  readonly ms: number
}

/** 2,000 registrations on the connections of 40 processes; ten processes restart at a time. */
export async function rollingRestart(postgres: string): Promise<Restart> {
  const [processes, membershipsEach, atOnce] = [40, 50, 10]
  const open = () => new PostgresCluster({ connection: postgres, name: 'restart' })
  const clusters = Array.from({ length: processes }, open)
  for (const cluster of clusters) await registerAll(cluster, membershipsEach)
  const started = hrtime.bigint()
  for (let n = 0; n < processes; n += atOnce) {
    const some = clusters.splice(0, atOnce)
    await Promise.all(
      some.map(async (cluster) => {
        await cluster.close()
        const next = open()
        clusters.push(next)
        await registerAll(next, membershipsEach)
      }),
    )
  }
  const ms = since(started)
  await Promise.all(clusters.map((cluster) => cluster.close()))
  return { processes, membershipsEach, ms }
}

function since(started: bigint): number {
  return Number(hrtime.bigint() - started) / 1e6
}

function middle(values: readonly number[] = []): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN
}
