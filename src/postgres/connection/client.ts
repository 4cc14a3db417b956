/** Opening one connection to PostgreSQL that can be destroyed whatever state it is in. */
import { Socket } from 'node:net'
import type pg from 'pg'
import { ConnectionError } from '../../api/errors.js'
import { within } from '../../kit/waiting.js'
import type { Connection } from '../options.js'
import { connectionConfig } from './config.js'

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

/** For pg: text as the server sends it. Applications may change pg's parsers for the whole process, ours included. */
export const AS_WRITTEN = { getTypeParser: () => String }

/** A silent network path is noticed by the kernel after about twice this. */
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

/** A function of the application's may as well answer at once, or throw. */
function asked({ connection, connectTimeoutMs, signal }: ClientPlan): Promise<unknown> {
  const ask = async (): Promise<unknown> => (typeof connection === 'function' ? connection() : connection)
  return within(connectTimeoutMs, ask(), 'finding the connection', signal)
}
