/** How to open a connection to PostgreSQL that can be destroyed in any state. */
import { Socket } from 'node:net'
import type pg from 'pg'
import { ConnectionError } from '../../api/errors.js'
import { within } from '../../kit/waiting.js'
import type { Connection } from '../options.js'
import { connectionConfig } from './config.js'

export interface ClientPlan {
  readonly connection: Connection
  readonly applicationName: string
  readonly connectTimeoutMs: number
  /** Aborts when the connection is not needed any longer. */
  readonly signal?: AbortSignal
}

/** What pg needs, and a way to destroy the socket: a server that hangs leaves no other way. */
export interface ClientConfig {
  readonly config: pg.ClientConfig
  destroy(): void
}

/** Makes pg return text as the server sends it. Its own parsers may be changed by the application. */
export const AS_WRITTEN = { getTypeParser: () => String }

/** The kernel notices a dead network path after about twice this time. */
const KEEP_ALIVE_MS = 10_000

export async function clientConfig(plan: ClientPlan): Promise<ClientConfig> {
  const { connection, connectTimeoutMs } = plan
  const found = connectionConfig(
    'connection',
    typeof connection === 'function' ? await asked(plan) : connection,
  )
  if (typeof found.host === 'string' && !canBeHost(found.host)) {
    throw new ConnectionError(
      `Cannot connect to PostgreSQL: ${JSON.stringify(found.host)} cannot be a host name`,
    )
  }
  const sockets: Socket[] = []
  return {
    config: {
      ...found,
      application_name: plan.applicationName,
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

/** The application's function may also return its answer without a promise, or throw. */
function asked({ connection, connectTimeoutMs, signal }: ClientPlan): Promise<unknown> {
  const ask = async (): Promise<unknown> => (typeof connection === 'function' ? connection() : connection)
  return within(connectTimeoutMs, ask(), 'finding the connection', signal)
}
