/**
 * One change at a time, until another process has seen it: this library, its floor (a bare INSERT with NOTIFY), and
 * its peers. They are measured by turns in one run, so that whatever else the machine does slows all of them.
 */
import { hrtime } from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { PostgresCluster } from 'pg-membership'
import { Observed } from '../lib/observed.js'
import type { Peer } from '../lib/servers.js'
import { type Summary, summary } from '../lib/stats.js'
import { etcd, type Kv, redis, zookeeper } from '../peers/clients.js'

const ROUNDS = 300
const WARM_UP = 30
const CLIENTS = { etcd, ZooKeeper: zookeeper, Redis: redis }

/** In milliseconds. */
export type Changes = Readonly<Record<string, Summary>>

export async function changes(postgres: string, peers: readonly Peer[]): Promise<Changes> {
  const writer = new pg.Client({ connectionString: postgres })
  await writer.connect()
  await writer.query('create table if not exists floor (id uuid primary key, data bytea)')
  const cluster = new PostgresCluster({ connection: postgres, name: 'bench' })
  await using observed = new Observed({ postgres, peers: peers.map(({ name, port }) => ({ name, port })) })
  const clients: [Peer['name'], Kv][] = []
  for (const { name, port } of peers) clients.push([name, await CLIENTS[name](port)])

  const measured = new Map<string, number[]>()
  let isWarm = false
  const note = (what: string, from: bigint, to: bigint): void => {
    if (!isWarm) return
    const values = measured.get(what) ?? []
    values.push(Number(to - from) / 1e6)
    measured.set(what, values)
  }
  /** Until another process has seen it, and until it has resolved. */
  const both = async (
    what: string,
    seen: Promise<bigint>,
    act: () => Promise<unknown>,
    resolves = what,
  ): Promise<void> => {
    const from = hrtime.bigint()
    const resolved = act().then(() => hrtime.bigint())
    note(`${what} -> seen`, from, await seen)
    note(`${resolves} -> resolved`, from, await resolved)
  }

  await cluster.getMembers()
  const first = cluster.createMembership({ data: 'first' })
  const seen = observed.sees('ours', (keys) => keys.includes(`${first.id}=first`))
  await first.register()
  await seen
  await sleep(2_000)
  for (let round = -WARM_UP; round < ROUNDS; round++) {
    isWarm = round >= 0
    await both(
      'bare INSERT + NOTIFY',
      observed.sees('floor', () => true),
      () =>
        writer.query({
          name: 'floor',
          text: `with added as (insert into floor values (gen_random_uuid(), 'data') returning id)
                 select pg_notify('floor', '') from added`,
        }),
    )
    const membership = cluster.createMembership({ data: 'data' })
    const { id } = membership
    await both(
      'register()',
      observed.sees('ours', (keys) => keys.includes(`${id}=data`)),
      () => membership.register(),
    )
    await both(
      'setData()',
      observed.sees('ours', (keys) => keys.includes(`${id}=changed`)),
      () => membership.setData('changed'),
    )
    await both(
      'deregister()',
      observed.sees('ours', (keys) => !keys.some((key) => key.startsWith(id))),
      () => membership.deregister(),
    )
    for (const [name, client] of clients) {
      await both(
        `${name} join`,
        observed.sees(name, (keys) => keys.includes(id)),
        () => client.join(id),
      )
      await client.leave(id)
    }
  }
  await cluster.close()
  await writer.end()
  for (const [, client] of clients) await client.close()
  return Object.fromEntries([...measured].map(([what, values]) => [what, summary(values)]))
}
