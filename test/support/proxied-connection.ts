import type { Socket } from 'node:net'

export type Direction = 'toServer' | 'toClient'

/** What the network is like now, for all connections of a proxy. */
export interface Conditions {
  frozen: Record<Direction, boolean>
  delayMs: number
}

/** How many bytes of a chunk may pass; when that is not all of them, the connection is reset after them. */
export type Inspect = (connection: ProxiedConnection, direction: Direction, chunk: Buffer) => number

/** A client's socket and the one to the server, with what is under way between them. */
export class ProxiedConnection {
  readonly conditions: Conditions
  readonly #sockets: readonly [client: Socket, server: Socket]
  readonly #pipes: readonly Pipe[]
  #broken = false
  #held = false

  constructor(
    client: Socket,
    server: Socket,
    conditions: Conditions,
    inspect: Inspect,
    closed: () => void,
    sent: (chunk: Buffer) => void = () => undefined,
  ) {
    this.conditions = conditions
    client.on('data', sent)
    this.#sockets = [client, server]
    this.#pipes = [
      new Pipe(this, 'toServer', client, server, inspect),
      new Pipe(this, 'toClient', server, client, inspect),
    ]
    for (const socket of this.#sockets) {
      socket.on('error', () => undefined) // 'close' follows, and tells
      socket.on('close', (failed) => {
        if (failed) this.#broken = true
        this.apply()
        if (client.closed && server.closed) closed()
      })
    }
  }

  /** As if the wire were torn: both ends see a reset. */
  reset(): void {
    for (const socket of this.#sockets) {
      // resetAndDestroy() ends the stream first: its FIN may arrive before the RST, and be taken for goodbye.
      Object.assign(socket, { resetAndClosing: true }).destroy()
    }
  }

  /** The client sees a reset, and the server does not hear of it. */
  abandon(): void {
    this.held = true
    Object.assign(this.#sockets[0], { resetAndClosing: true }).destroy()
  }

  /** What the client has sent and sends from now on waits; also when the client has gone meanwhile. */
  set held(held: boolean) {
    this.#held = held
    this.apply()
  }

  isFrozen(direction: Direction): boolean {
    return this.conditions.frozen[direction] || (direction === 'toServer' && this.#held)
  }

  /** After the conditions changed. A frozen network does not tell one end that the other is gone. */
  apply(): void {
    if (this.#broken && !this.isFrozen('toServer') && !this.isFrozen('toClient')) this.reset()
    for (const pipe of this.#pipes) pipe.pump()
  }
}

/** One direction of a connection. */
class Pipe {
  readonly #connection: ProxiedConnection
  readonly #direction: Direction
  readonly #source: Socket
  readonly #target: Socket
  readonly #inspect: Inspect
  /** Without a chunk: the source has ended. */
  readonly #queue: { readonly chunk: Buffer | undefined; readonly dueAt: number }[] = []
  #timer: NodeJS.Timeout | undefined

  constructor(
    connection: ProxiedConnection,
    direction: Direction,
    source: Socket,
    target: Socket,
    inspect: Inspect,
  ) {
    this.#connection = connection
    this.#direction = direction
    this.#source = source
    this.#target = target
    this.#inspect = inspect
    source.on('data', (chunk: Buffer) => {
      this.#enqueue(chunk)
    })
    source.on('end', () => {
      this.#enqueue(undefined)
    })
    target.on('drain', () => {
      this.pump()
    })
    this.pump()
  }

  /** Passes on what is due, and reads on if there is room. */
  pump(): void {
    clearTimeout(this.#timer)
    const frozen = this.#connection.isFrozen(this.#direction)
    while (!frozen && this.#target.writable) {
      const [next] = this.#queue
      if (!next) break
      const waitMs = next.dueAt - performance.now()
      if (waitMs > 0) {
        this.#timer = setTimeout(this.pump.bind(this), Math.ceil(waitMs))
        break
      }
      this.#queue.shift()
      this.#pass(next.chunk)
    }
    if (frozen || this.#target.writableNeedDrain) this.#source.pause()
    else this.#source.resume()
  }

  #enqueue(chunk: Buffer | undefined): void {
    this.#queue.push({ chunk, dueAt: performance.now() + this.#connection.conditions.delayMs })
    this.pump()
  }

  #pass(chunk: Buffer | undefined): void {
    if (!chunk) {
      this.#target.end()
      return
    }
    const allowed = this.#inspect(this.#connection, this.#direction, chunk)
    if (allowed > 0) this.#target.write(chunk.subarray(0, allowed))
    if (allowed < chunk.length) this.#connection.reset()
  }
}
