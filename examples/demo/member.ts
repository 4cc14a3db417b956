/**
 * One process of the cluster: the part that you would write. `main.ts` starts five of these. They have
 * only the database in common.
 */
import { once } from 'node:events'
import { MembershipLostError, PostgresCluster } from 'pg-membership'
import type { Command, Data, Report } from './messages.js'

const [name = '', schema = '', ttlMs] = process.argv.slice(2)

// No I/O yet. The ttl is short so that you need not wait; the default is 15 seconds.
const cluster = new PostgresCluster({
  connection: process.env.DATABASE_URL ?? '',
  schema,
  name: 'demo',
  ttlMs: Number(ttlMs),
  heartbeatMs: Number(ttlMs) / 3,
})

// Not visible to anyone until it registers. Its id stays the same for the life of this object.
const membership = cluster.createMembership({ data: dataWith('ready') })
report({ kind: 'watching', id: membership.id })

process.on('message', (command: Command) => {
  void obey(command)
})
// Deregisters, so that the others know immediately, and closes all connections.
process.once('SIGTERM', () => void leave())
// Ctrl-C reaches all processes of a terminal: the demo decides what happens to this one.
process.on('SIGINT', () => undefined)
process.once('disconnect', () => void leave())

await Promise.all([watch(), trust()])

/** The members, and again whenever they change. Watching needs no membership. */
async function watch(): Promise<void> {
  for await (const members of cluster.watchMembers()) {
    report({ kind: 'sees', revision: cluster.snapshot?.revision ?? 0, members })
  }
}

/**
 * Each registration comes with a lease, and a lease ends. Pass its signal to everything that must not
 * go on without the lease: fetch, timers, streams, a job of your own.
 */
async function trust(): Promise<void> {
  for (;;) {
    // The present lease, or the next one: a lost membership registers again by itself.
    const lease = await membership.whenRegistered().catch(() => undefined)
    if (lease === undefined) return // the cluster was closed
    if (!lease.signal.aborted) await once(lease.signal, 'abort')
    const error: unknown = lease.signal.reason
    if (error instanceof MembershipLostError)
      report({ kind: 'lost', error: error.name, reason: error.reason })
  }
}

async function obey(command: Command): Promise<void> {
  switch (command.kind) {
    case 'register':
      await membership.register()
      break
    case 'set state':
      await membership.setData(dataWith(command.state))
      break
  }
}

async function leave(): Promise<void> {
  await cluster.close()
  if (process.connected) process.disconnect()
}

function dataWith(state: string): string {
  return JSON.stringify({ name, state } satisfies Data)
}

function report(message: Report): void {
  // The demo may have ended already: then no process listens.
  if (process.connected) process.send?.(message, undefined, undefined, () => undefined)
}
