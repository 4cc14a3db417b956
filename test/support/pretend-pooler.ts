/**
 * A server that looks as if a pooler were in front of it: clients are told another process id than that of their
 * backend. So they change no setting of it. It also notes what clients send.
 */
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export interface PretendPooler extends AsyncDisposable {
  /** The same database through it. */
  url(databaseUrl: string): string
  /** The texts of all statements so far. */
  readonly statements: ReadonlySet<string>
}

export async function startPretendPooler(databaseUrl: string): Promise<PretendPooler> {
  const { hostname, port } = new URL(databaseUrl)
  const statements = new Set<string>()
  const sockets = new Set<Socket>()
  const server = createServer({ noDelay: true }, (client) => {
    const backend = connect({ host: hostname, port: Number(port || 5432), noDelay: true })
    for (const [from, to] of [
      [client, backend],
      [backend, client],
    ] as const) {
      sockets.add(from)
      from.on('error', () => undefined)
      from.on('close', () => {
        sockets.delete(from)
        to.destroy()
      })
    }
    // The first message of a client has no type.
    const sent = new Messages(0, (type, body) => note(statements, type, body))
    const answered = new Messages(1, (type, body) => {
      // BackendKeyData.
      if (type === 'K') body.writeInt32BE(body.readInt32BE(0) + 1, 0)
    })
    client.on('data', (chunk: Buffer) => backend.write(sent.whole(chunk)))
    backend.on('data', (chunk: Buffer) => client.write(answered.whole(chunk)))
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  return {
    statements,
    url(databaseUrl) {
      const url = new URL(databaseUrl)
      url.hostname = '127.0.0.1'
      url.port = String((server.address() as AddressInfo).port)
      return url.href
    },
    async [Symbol.asyncDispose]() {
      const closed = once(server, 'close')
      server.close()
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
}

/** Query, and Parse, which has a name before its text. */
function note(statements: Set<string>, type: string, body: Buffer): void {
  const texts = body.toString().split('\0')
  if (type === 'Q') statements.add(texts[0] ?? '')
  if (type === 'P') statements.add(texts[1] ?? '')
}

/** Divides a stream of bytes into PostgreSQL's messages. */
class Messages {
  #rest = Buffer.alloc(0)
  #typeBytes: number
  readonly #each: (type: string, body: Buffer) => void

  constructor(typeBytes: 0 | 1, each: (type: string, body: Buffer) => void) {
    this.#typeBytes = typeBytes
    this.#each = each
  }

  /** The messages that are whole now, after `each` has seen them, and perhaps changed them. */
  whole(chunk: Buffer): Buffer {
    const bytes = Buffer.concat([this.#rest, chunk])
    let begin = 0
    while (bytes.length >= begin + this.#typeBytes + 4) {
      const lengthAt = begin + this.#typeBytes
      const end = lengthAt + bytes.readInt32BE(lengthAt)
      if (bytes.length < end) break
      this.#each(bytes.toString('latin1', begin, lengthAt), bytes.subarray(lengthAt + 4, end))
      this.#typeBytes = 1
      begin = end
    }
    this.#rest = bytes.subarray(begin)
    return bytes.subarray(0, begin)
  }
}
