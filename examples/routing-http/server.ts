/**
 * One process of many: each key has an owner, and a request may arrive anywhere. Who gets a request for somebody else's
 * key forwards it once, marked by a header. Whoever gets a marked request answers it: for a moment after a change two
 * processes may believe in different owners, and no request may go in circles meanwhile.
 */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Cluster } from 'pg-membership'
import { Router } from 'pg-membership/routing'
import type { TypedMembership } from 'pg-membership/typed'
import { type Place, places } from './places.js'

const FORWARDED_BY = 'x-forwarded-by'
/** Longer than it takes others to see that a process is gone. */
const EJECT_MS = 2_000
const FORWARD_TIMEOUT_MS = 5_000
const STOP_TIMEOUT_MS = 2_000
/** Others hear of it within milliseconds. What they sent before that is still on its way. */
const GRACE_MS = 500

export interface Answer {
  readonly status: number
  readonly body: string
}

/** What a process answers itself, whoever owns the key; undefined: the owner answers. */
export type Local = (key: string) => Answer | undefined

export class RoutingServer {
  readonly url: string
  readonly membership: TypedMembership<Place>
  readonly #local: Local
  readonly #server: Server
  readonly #router: Router<{ readonly id: string; readonly data: Place }>

  private constructor(cluster: Cluster, server: Server, local: Local) {
    const view = places(cluster)
    const { port } = server.address() as AddressInfo
    this.url = `http://127.0.0.1:${port}`
    this.#local = local
    this.#server = server
    this.#router = new Router(view, { weight: ({ data }) => data.weight })
    this.membership = view.createMembership({ data: { url: this.url, weight: 1 } })
    server.on('request', (request: IncomingMessage, response) => {
      this.#answer(request).then(
        ({ status, body }) => response.writeHead(status).end(body),
        (error: unknown) => response.writeHead(500).end(String(error)),
      )
    })
  }

  /** Registers when it is ready to serve, never before. */
  static async start(cluster: Cluster, port = 0, local: Local = () => undefined): Promise<RoutingServer> {
    const server = createServer().listen(port, '127.0.0.1')
    await once(server, 'listening')
    const started = new RoutingServer(cluster, server, local)
    await started.membership.register()
    return started
  }

  /** Loses no request: first nothing new comes, then what is under way is answered. The cluster is closed by its owner. */
  async stop(): Promise<void> {
    // Without the database nobody hears of it, and this process stops all the same.
    const signal = AbortSignal.timeout(STOP_TIMEOUT_MS)
    await this.membership.setData({ url: this.url, weight: 0 }, { signal }).catch(() => undefined)
    await this.membership.deregister({ signal }).catch(() => undefined)
    // Who had found this process just before may still send something.
    await sleep(GRACE_MS)
    const closed = once(this.#server, 'close')
    this.#server.close()
    this.#server.closeIdleConnections()
    await closed
  }

  async #answer(request: IncomingMessage): Promise<Answer> {
    const key = (request.url ?? '/').slice(1)
    const answer = this.#local(key)
    if (answer !== undefined) return answer
    const body = await text(request)
    const owner = this.#router.owner(key)
    const isMarked = request.headers[FORWARDED_BY] !== undefined
    if (owner === undefined || owner.id === this.membership.id || isMarked) return this.#serve(key)
    try {
      return await this.#forward(owner.data.url, key, request.method, body)
    } catch (error) {
      // Others may do better until the snapshot shows whether it is gone.
      this.#router.eject(owner, { forMs: EJECT_MS })
      // Nobody has heard this request yet. Otherwise nobody knows whether it was carried out: the client must decide.
      if (wasRefused(error)) return this.#serve(key)
      return { status: 502, body: `The owner of ${key} does not answer\n` }
    }
  }

  #serve(key: string): Answer {
    return { status: 200, body: `${key} is served by ${this.url}\n` }
  }

  async #forward(url: string, key: string, method = 'GET', body = ''): Promise<Answer> {
    const response = await fetch(`${url}/${key}`, {
      method,
      headers: { [FORWARDED_BY]: this.url },
      signal: AbortSignal.timeout(FORWARD_TIMEOUT_MS),
      ...(body !== '' && { body }),
    })
    return { status: response.status, body: await response.text() }
  }
}

function wasRefused(error: unknown): boolean {
  const { cause } = Object(error) as { cause?: { code?: unknown } }
  return cause?.code === 'ECONNREFUSED'
}
