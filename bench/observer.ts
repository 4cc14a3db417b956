/** A process that watches everything of the comparison, and tells what it saw, and when. Started by lib/observed.ts. */
import { hrtime } from 'node:process'
import pg from 'pg'
import { PostgresCluster } from 'pg-membership'
import { watchEtcd, watchRedis, watchZooKeeper } from './peers/clients.js'

export interface Sighting {
  readonly of: 'floor' | 'ours' | 'etcd' | 'ZooKeeper' | 'Redis'
  /** id=data */
  readonly keys: readonly string[]
  /** Nanoseconds of the clock that all processes of a machine share. */
  readonly at: string
}

export interface Watched {
  readonly postgres: string
  readonly peers: readonly { readonly name: 'etcd' | 'ZooKeeper' | 'Redis'; readonly port: number }[]
}

const WATCH = { etcd: watchEtcd, ZooKeeper: watchZooKeeper, Redis: watchRedis }

const tell = (of: Sighting['of'], keys: readonly string[]): void => {
  process.send?.({ of, keys, at: String(hrtime.bigint()) } satisfies Sighting)
}

async function observe({ postgres, peers }: Watched): Promise<void> {
  const client = new pg.Client({ connectionString: postgres })
  await client.connect()
  client.on('notification', () => tell('floor', []))
  await client.query('listen floor')
  for (const { name, port } of peers) await WATCH[name](port, (keys) => tell(name, keys))
  const cluster = new PostgresCluster({ connection: postgres, name: 'bench' })
  for await (const members of cluster.watchMembers()) {
    tell(
      'ours',
      members.map(({ id, data }) => `${id}=${data}`),
    )
  }
}

await observe(JSON.parse(process.argv[2] ?? '') as Watched)
