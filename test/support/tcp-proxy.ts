/**
 * A network between a client and PostgreSQL that tests can break: cut, freeze, slow down, switch to
 * another server, or lose exactly one reply. Bytes pass unchanged and in order.
 */
import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { freePort } from './free-port.js'
import { type Conditions, type Direction, type Inspect, ProxiedConnection } from './proxied-connection.js'

export interface Cut {
  /** Counted in this direction; the byte that would exceed `afterBytes` is not passed on. */
  readonly direction: Direction
  /** 0: nothing more gets through. A statement runs and its reply is lost with 0 bytes 'toClient'. */
  readonly afterBytes: number
  /**
   * Asked with every chunk from the client until it says yes; counting starts there.
   * `sent`: what this client has sent since the cut was armed; `startup`: its first packet, with user
   * and application_name. Both as latin1.
   */
  readonly when: (traffic: { readonly sent: string; readonly startup: string }) => boolean
}

/** In front of the server of a database's URL. */
export async function startProxy(databaseUrl: string): Promise<TcpProxy> {
  const { hostname, port } = new URL(databaseUrl)
  const proxy = new TcpProxy(hostname, Number(port || 5432), await freePort())
  await proxy.restore()
  return proxy
}

export class TcpProxy implements AsyncDisposable {
  readonly port: number
  readonly #host: string
  readonly #connections = new Set<ProxiedConnection>()
  readonly #conditions: Conditions = { frozen: { toServer: false, toClient: false }, delayMs: 0 }
  readonly #cuts = new Set<ArmedCut>()
  readonly #holds = new Set<(connection: ProxiedConnection, chunk: Buffer) => boolean>()
  readonly #held = new Map<ProxiedConnection, NodeJS.Timeout>()
  readonly #startups = new WeakMap<ProxiedConnection, string>()
  #targetPort: number
  #server: Server | undefined

  constructor(host: string, targetPort: number, port: number) {
    this.#host = host
    this.#targetPort = targetPort
    this.port = port
  }

  /** The same database through this proxy. */
  url(databaseUrl: string): string {
    const url = new URL(databaseUrl)
    url.hostname = '127.0.0.1'
    url.port = String(this.port)
    return url.href
  }

  /** How many are open now. */
  get connections(): number {
    return this.#connections.size
  }

  /** Resets every connection, and refuses new ones until `restore`. */
  async cut(): Promise<void> {
    const closed = this.#server && once(this.#server, 'close')
    this.refuse()
    this.reset()
    await closed
  }

  /** Refuses new connections until `restore`. Those that are open go on. */
  refuse(): void {
    this.#server?.close()
    this.#server = undefined
  }

  /** Accepts connections again, on the same port. */
  async restore(): Promise<void> {
    if (this.#server) return
    const server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
      this.#connect(client)
    })
    this.#server = server
    await once(server.listen(this.port, '127.0.0.1'), 'listening')
  }

  /** Resets every connection; new ones are welcome. */
  reset(): void {
    for (const connection of this.#connections) connection.reset()
  }

  /** Resets every connection at the client's end only: the server goes on with what it was asked. New ones are welcome. */
  abandon(): void {
    for (const connection of this.#connections) connection.abandon()
  }

  /** Sockets stay open and fall silent, as when a peer's machine or the network is gone. New ones, too. */
  freeze({ direction = 'both' }: { readonly direction?: Direction | 'both' } = {}): void {
    if (direction !== 'toClient') this.#conditions.frozen.toServer = true
    if (direction !== 'toServer') this.#conditions.frozen.toClient = true
    this.#apply()
  }

  /** Passes on what was held back, by `holdOnce` too. */
  thaw(): void {
    this.#conditions.frozen = { toServer: false, toClient: false }
    for (const connection of this.#held.keys()) this.#letGo(connection)
    this.#apply()
  }

  /** Latency in each direction, from now on. */
  delay(ms: number): void {
    this.#conditions.delayMs = ms
  }

  /** New connections go there; those that are open stay where they are. A failover is this and `reset`. */
  switchTo(port: number): void {
    this.#targetPort = port
  }

  /**
   * Arms a cut: resets the one connection that first meets it, and resolves then. To lose a reply:
   * `cutOnce({ direction: 'toClient', afterBytes: 0, when: ({ sent }) => sent.includes('register') })`
   */
  cutOnce(cut: Cut): Promise<void> {
    return new Promise((resolve) => {
      this.#cuts.add(new ArmedCut(cut, resolve))
    })
  }

  /**
   * Holds back the next statement that is meant, and all after it on its connection, for a while. A
   * client that gives up meanwhile does not take it back: the server gets it late. Resolves when it is let go.
   */
  holdOnce(when: (traffic: { readonly sent: string }) => boolean, forMs: number): Promise<void> {
    return new Promise((resolve) => {
      const hold = (connection: ProxiedConnection, chunk: Buffer): boolean => {
        if (!when({ sent: chunk.toString('latin1') })) return false
        connection.held = true
        const timer = setTimeout(() => {
          this.#letGo(connection)
          resolve()
        }, forMs)
        this.#held.set(connection, timer)
        return true
      }
      this.#holds.add(hold)
    })
  }

  /** Lets go what `holdOnce` holds back, and holds back nothing more. */
  holdNoMore(): void {
    this.#holds.clear()
    for (const connection of this.#held.keys()) this.#letGo(connection)
  }

  /** Collects what passes in a direction, from where a cut would begin to count. */
  record(watched: Omit<Cut, 'afterBytes'>): readonly Buffer[] {
    const passed: Buffer[] = []
    this.#cuts.add(new ArmedCut({ ...watched, afterBytes: Infinity }, () => undefined, passed))
    return passed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.cut()
  }

  #connect(client: Socket): void {
    const server = connect({ host: this.#host, port: this.#targetPort, allowHalfOpen: true, noDelay: true })
    const inspect: Inspect = (from, direction, chunk) => this.#inspect(from, direction, chunk)
    const closed = (): void => {
      this.#connections.delete(connection)
      clearTimeout(this.#held.get(connection))
      this.#held.delete(connection)
    }
    const connection: ProxiedConnection = new ProxiedConnection(
      client,
      server,
      this.#conditions,
      inspect,
      closed,
      (chunk) => this.#hold(connection, chunk),
    )
    this.#connections.add(connection)
  }

  #hold(connection: ProxiedConnection, chunk: Buffer): void {
    for (const hold of this.#holds) {
      if (hold(connection, chunk)) this.#holds.delete(hold)
    }
  }

  #letGo(connection: ProxiedConnection): void {
    clearTimeout(this.#held.get(connection))
    this.#held.delete(connection)
    connection.held = false
  }

  #inspect(connection: ProxiedConnection, direction: Direction, chunk: Buffer): number {
    if (direction === 'toServer' && !this.#startups.has(connection)) {
      this.#startups.set(connection, chunk.toString('latin1'))
    }
    const startup = this.#startups.get(connection) ?? ''
    let allowed = chunk.length
    for (const cut of this.#cuts) {
      const passing = cut.inspect(connection, startup, direction, chunk)
      if (passing < chunk.length) this.#cuts.delete(cut)
      allowed = Math.min(allowed, passing)
    }
    return allowed
  }

  #apply(): void {
    for (const connection of this.#connections) connection.apply()
  }
}

class ArmedCut {
  readonly #cut: Cut
  readonly #done: () => void
  readonly #sent = new WeakMap<ProxiedConnection, string>()
  readonly #passed = new WeakMap<ProxiedConnection, number>()
  readonly #record: Buffer[] | undefined

  constructor(cut: Cut, done: () => void, record?: Buffer[]) {
    this.#cut = cut
    this.#done = done
    this.#record = record
  }

  inspect(connection: ProxiedConnection, startup: string, direction: Direction, chunk: Buffer): number {
    if (direction === 'toServer' && !this.#passed.has(connection)) {
      const sent = (this.#sent.get(connection) ?? '') + chunk.toString('latin1')
      this.#sent.set(connection, sent)
      if (this.#cut.when({ sent, startup })) this.#passed.set(connection, 0)
    }
    const passed = this.#passed.get(connection)
    if (passed === undefined || direction !== this.#cut.direction) return chunk.length
    const allowed = this.#cut.afterBytes - passed
    if (chunk.length > allowed) {
      this.#done()
      return allowed
    }
    this.#passed.set(connection, passed + chunk.length)
    this.#record?.push(chunk)
    return chunk.length
  }
}
