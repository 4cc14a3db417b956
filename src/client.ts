/** Opening one connection to PostgreSQL that can be destroyed whatever state it is in. */
import { Socket } from 'node:net'
import type pg from 'pg'
import { ConnectionError } from './errors.js'
import { checkedConfig, type Connection, type ConnectionConfig } from './options.js'
import { within } from './waiting.js'

export interface ClientPlan {
  readonly connection: Connection
  readonly session: string
  readonly connectTimeoutMs: number
  /** Aborts when nobody needs it any more. */
  readonly signal?: AbortSignal
}

/** What pg needs, with a hold on the socket: a frozen peer is answered by destroying it. */
export interface ClientConfig {
  readonly config: pg.ClientConfig
  destroy(): void
}

/** A silent network path is noticed by the kernel after about twice this. */
const KEEP_ALIVE_MS = 10_000

export async function clientConfig(plan: ClientPlan): Promise<ClientConfig> {
  const { connection, connectTimeoutMs, signal } = plan
  const found =
    typeof connection === 'function'
      ? checkedConfig(
          'connection',
          await within(connectTimeoutMs, connection(), 'finding the connection', signal),
        )
      : checkedConfig('connection', connection)
  if (typeof found.host === 'string' && !canBeHost(found.host)) {
    throw new ConnectionError(
      `Cannot connect to PostgreSQL: ${JSON.stringify(found.host)} cannot be a host name`,
    )
  }
  const sockets: Socket[] = []
  return {
    config: {
      ...withoutName(found),
      application_name: plan.session,
      connectionTimeoutMillis: connectTimeoutMs,
      keepAlive: true,
      keepAliveInitialDelayMillis: KEEP_ALIVE_MS,
      stream: () => {
        const socket = new Socket()
        sockets.push(socket)
        return socket
      },
    },
    destroy: () => {
      for (const socket of sockets) socket.destroy()
    },
  }
}

/** A name, an address, or the directory of a Unix socket. */
function canBeHost(host: string): boolean {
  return /^[/@]/.test(host) || (/^[\w.:%-]+$/u.test(host) && host.length <= 253)
}

/** pg lets what is in the URL win, and the name of the session must be ours. */
function withoutName(config: ConnectionConfig): ConnectionConfig {
  const { connectionString } = config
  if (connectionString === undefined) return config
  return { ...config, connectionString: connectionString.replace(/([?&])application_name=[^&#]*&?/g, '$1') }
}
