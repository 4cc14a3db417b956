/**
 * The usual Node clients of the peers: only what the comparison needs. They are installed in this folder only, so their
 * types are not known here.
 */
export interface Kv {
  /** Makes an entry that others see as long as this session lives. */
  readonly join: (key: string) => Promise<unknown>
  readonly leave: (key: string) => Promise<unknown>
  readonly close: () => unknown
}

const PREFIX = '/members'

const load = (name: string): Promise<unknown> => import(name)

interface EtcdLease {
  put(key: string): { value(value: string): Promise<unknown> }
  revoke(): Promise<unknown>
}
interface EtcdWatcher {
  on(event: 'put', listener: (entry: { readonly key: Buffer }) => void): EtcdWatcher
}
interface EtcdClient {
  lease(seconds: number): EtcdLease
  watch(): { prefix(prefix: string): { create(): Promise<EtcdWatcher> } }
  close(): void
}

async function etcdClient(port: number): Promise<EtcdClient> {
  const { Etcd3 } = (await load('etcd3')) as { Etcd3: new (options: object) => EtcdClient }
  return new Etcd3({ hosts: `http://127.0.0.1:${port}` })
}

export async function etcd(port: number): Promise<Kv> {
  const client = await etcdClient(port)
  const leases = new Map<string, EtcdLease>()
  return {
    join: async (key) => {
      const lease = client.lease(15)
      leases.set(key, lease)
      await lease.put(`${PREFIX}/${key}`).value('data')
    },
    leave: async (key) => leases.get(key)?.revoke(),
    close: () => client.close(),
  }
}

export async function watchEtcd(port: number, seen: (keys: readonly string[]) => void): Promise<void> {
  const client = await etcdClient(port)
  const watcher = await client.watch().prefix(PREFIX).create()
  watcher.on('put', ({ key }) => seen([key.toString().slice(PREFIX.length + 1)]))
}

interface ZooKeeperClient {
  once(event: 'connected', listener: () => void): void
  connect(): void
  close(): void
  create(
    path: string,
    data: Buffer | null,
    mode: number,
    done: (error: (Error & { code?: number }) | null) => void,
  ): void
  remove(path: string, version: number, done: (error: Error | null) => void): void
  getChildren(
    path: string,
    watcher: () => void,
    done: (error: Error | null, children: readonly string[]) => void,
  ): void
}
interface ZooKeeper {
  createClient(address: string): ZooKeeperClient
  readonly CreateMode: { readonly PERSISTENT: number; readonly EPHEMERAL: number }
}

async function zookeeperClient(
  port: number,
): Promise<{ client: ZooKeeperClient; modes: ZooKeeper['CreateMode'] }> {
  const { default: zookeeper } = (await load('node-zookeeper-client')) as { default: ZooKeeper }
  const client = zookeeper.createClient(`127.0.0.1:${port}`)
  const connected = new Promise<void>((resolve) => client.once('connected', resolve))
  client.connect()
  await connected
  await new Promise<void>((resolve, reject) => {
    client.create(PREFIX, null, zookeeper.CreateMode.PERSISTENT, (error) => {
      // -110: the node is there already.
      if (error === null || error.code === -110) resolve()
      else reject(error)
    })
  })
  return { client, modes: zookeeper.CreateMode }
}

export async function zookeeper(port: number): Promise<Kv> {
  const { client, modes } = await zookeeperClient(port)
  return {
    join: (key) =>
      new Promise<void>((resolve, reject) => {
        client.create(`${PREFIX}/${key}`, Buffer.from('data'), modes.EPHEMERAL, (error) =>
          error === null ? resolve() : reject(error),
        )
      }),
    leave: (key) =>
      new Promise<void>((resolve, reject) => {
        client.remove(`${PREFIX}/${key}`, -1, (error) => (error === null ? resolve() : reject(error)))
      }),
    close: () => client.close(),
  }
}

export async function watchZooKeeper(port: number, seen: (keys: readonly string[]) => void): Promise<void> {
  const { client } = await zookeeperClient(port)
  const look = (): void =>
    client.getChildren(PREFIX, look, (error, children) => error === null && seen(children))
  look()
}

interface RedisClient {
  multi(): RedisClient
  set(key: string, value: string, expire: 'EX', seconds: number): RedisClient
  del(key: string): RedisClient
  publish(channel: string, message: string): RedisClient
  exec(): Promise<unknown>
  get(key: string): Promise<string | null>
  subscribe(channel: string): Promise<unknown>
  on(event: 'message', listener: (channel: string, message: string) => void): void
  once(event: 'ready', listener: () => void): void
  disconnect(): void
}

async function redisClient(port: number): Promise<RedisClient> {
  const { Redis } = (await load('ioredis')) as { Redis: new (port: number, host: string) => RedisClient }
  const client = new Redis(port, '127.0.0.1')
  await new Promise<void>((resolve) => client.once('ready', resolve))
  return client
}

export async function redis(port: number): Promise<Kv> {
  const client = await redisClient(port)
  return {
    join: (key) => client.multi().set(key, 'data', 'EX', 15).publish(PREFIX, key).exec(),
    leave: (key) => client.multi().del(key).publish(PREFIX, key).exec(),
    close: () => client.disconnect(),
  }
}

export async function watchRedis(port: number, seen: (keys: readonly string[]) => void): Promise<void> {
  const [subscriber, reader] = [await redisClient(port), await redisClient(port)]
  subscriber.on('message', (_, key) => {
    void reader.get(key).then((value) => value !== null && seen([key]))
  })
  await subscriber.subscribe(PREFIX)
}
