/** A cluster in PostgreSQL: the composition root. */
import type { Logger } from '../api/logger.js'
import { ClusterCore } from '../engine/cluster-core.js'
import { checkOptions, clusterName, loggerOption, refuse, timing } from '../engine/options.js'
import { Announcements } from './announcements.js'
import { PostgresClaims } from './claims.js'
import { connectionOption } from './connection/config.js'
import type { Subscription } from './connection/listener.js'
import { SharedConnections } from './connection/shared-connections.js'
import { PostgresNonces } from './nonces.js'
import { type Connection, type Connections, schemaName } from './options.js'
import { PostgresStore } from './store.js'

/** Options of `PostgresCluster`. Any other name is refused. */
export interface PostgresClusterOptions {
  /** 1 to 255 bytes of UTF-8, without U+0000. A cluster never sees one of another name, or in another schema. */
  readonly name: string
  /**
   * For queries; may go through a pooler. A function is called before every connect; a standby is refused. Or the
   * `connections` of another cluster of this process, to share them.
   */
  readonly connection: Connection | Connections
  /** For LISTEN; a direct or session-mode address. Default: `connection`. false: never listen, poll. */
  readonly listenConnection?: Connection | false
  /** Where `migrate` put the tables. 1 to 63 bytes of UTF-8. Default 'pgmembership'. */
  readonly schema?: string
  /** Silence after which others may remove a member, in milliseconds. 1_000 to 86_400_000; default 15_000. */
  readonly ttlMs?: number
  /** Milliseconds between heartbeats, at most. 100 to ttlMs / 2; default ttlMs / 3. */
  readonly heartbeatMs?: number
  /**
   * How many milliseconds the cache may go unconfirmed when nothing else confirms it. 100 to 86_400_000; default
   * heartbeatMs.
   */
  readonly pollMs?: number
  /**
   * For how many milliseconds all connections of a process may be gone before others may take it for
   * crashed, without waiting for its ttl. false: wait for the ttl. 50 to ttlMs / 2; default 400.
   */
  readonly crashGraceMs?: number | false
  /** Bound of close(), in milliseconds. 0 to 3_600_000; default 5_000. */
  readonly closeTimeoutMs?: number
  /** Gets messages about the work in the background. pino and console fit. Default: no logging. */
  readonly logger?: Logger
}

const OPTIONS = ['name', 'connection', 'listenConnection', 'schema', 'logger'].concat(
  ['ttlMs', 'heartbeatMs', 'pollMs', 'crashGraceMs', 'closeTimeoutMs'], // milliseconds
)

const POOLER =
  'The connection goes through a pooler, which may lose LISTEN. So this cluster polls for changes, every pollMs. ' +
  'Give a direct or session-mode address as listenConnection, or false to poll without this warning'

/**
 * A cluster whose members are rows of a PostgreSQL database.
 *
 * The constructor does no I/O: connections are opened by the first read or registration.
 *
 * @example
 * import { PostgresCluster } from 'pg-membership'
 *
 * const cluster = new PostgresCluster({ connection: 'postgres://localhost/app', name: 'chat' })
 * const membership = cluster.createMembership({ data: 'http://10.0.0.7:8080' })
 * await membership.register()
 * for await (const members of cluster.watchMembers()) console.log(members)
 */
export class PostgresCluster extends ClusterCore {
  /** Give this as `connection` to other clusters of this process: they share the connections. */
  readonly connections: Connections

  /** @throws OptionError that names the option, the value and the range. */
  constructor(options: PostgresClusterOptions) {
    checkOptions('PostgresCluster', options, OPTIONS)
    const name = clusterName(options.name)
    const schema = schemaName(options.schema)
    const times = timing(options)
    const logger = loggerOption(options.logger)
    const connections = connectionsOf(options)
    const detach = connections.attach(times.ttlMs)
    const store = new PostgresStore(connections, schema, name, times)
    super({
      name,
      store,
      claims: new PostgresClaims(store.writes, schema, name),
      nonces: new PostgresNonces(store.writes, schema, name),
      timing: times,
      logger,
      onSurprise: () => connections.listener?.doubt(),
      detach,
      start: ({ hint, take, hearing, recover, retry, patienceMs, report }) => {
        const stopUsing = connections.use({ lost: recover, reached: retry, patienceMs })
        // undefined: this role may only read, and is told that something changed, but not what.
        let announcements: Announcements | undefined
        const subscription: Subscription = {
          channel: async () => {
            const hints = await store.channel()
            const members = await store.membersChannel(hints)
            announcements = members && new Announcements(members)
            return members?.name ?? hints
          },
          onNotification: (payload) => {
            if (announcements === undefined) hint()
            else {
              const delta = announcements.hear(payload, connections.heartbeats.server)
              if (delta !== undefined) take(delta)
            }
          },
          onListening: hint,
          onChange: (isHearing) => {
            if (isHearing) report.succeeded('listen')
            hearing(isHearing)
          },
          onError: (error) => report.failed('listen', error),
          onPooler: () => report.log('warn', {}, POOLER),
        }
        const unsubscribe = connections.listener?.subscribe(subscription)
        store.onRenewedChannel = () => connections.listener?.renamed(subscription)
        if (connections.listener === undefined) hearing(false)
        return () => {
          stopUsing()
          unsubscribe?.()
        }
      },
    })
    this.connections = connections.handle
  }
}

function connectionsOf(options: PostgresClusterOptions): SharedConnections {
  const { connection, listenConnection } = options
  const shared = SharedConnections.behind(connection)
  if (shared !== undefined) {
    if (listenConnection !== undefined) {
      refuse(
        'listenConnection',
        listenConnection,
        'be left out where connections are shared: these have their own',
      )
    }
    return shared
  }
  return new SharedConnections(
    connectionOption('connection', connection),
    listenConnection === undefined || listenConnection === false
      ? listenConnection
      : connectionOption('listenConnection', listenConnection),
  )
}
