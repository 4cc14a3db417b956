/** A server of gRPC that is a member of a cluster, and a client for it. No .proto: messages are JSON. */
import {
  Client,
  credentials,
  type Metadata,
  Server,
  ServerCredentials,
  type ServiceDefinition,
} from '@grpc/grpc-js'
import type { TypedCluster, TypedMembership } from 'pg-membership/typed'
import type { Place } from '../routing-http/places.js'

const PATH = '/example.Keys/Ask'
const STOP_TIMEOUT_MS = 2_000

function encode(value: string): Buffer {
  return Buffer.from(JSON.stringify(value))
}

function decode(bytes: Buffer): string {
  return String(JSON.parse(bytes.toString()))
}

const SERVICE: ServiceDefinition = {
  ask: {
    path: PATH,
    requestStream: false,
    responseStream: false,
    requestSerialize: encode,
    requestDeserialize: decode,
    responseSerialize: encode,
    responseDeserialize: decode,
  },
}

export class KeysServer {
  readonly url: string
  readonly #server: Server
  readonly #membership: TypedMembership<Place>

  private constructor(server: Server, url: string, membership: TypedMembership<Place>) {
    this.#server = server
    this.url = url
    this.#membership = membership
  }

  /** Registers when it is ready to serve, never before. */
  static async start(
    cluster: TypedCluster<Place>,
    answer: (asked: string) => Promise<string>,
  ): Promise<KeysServer> {
    const server = new Server()
    server.addService(SERVICE, {
      ask: (call: { request: string }, reply: (error: Error | null, value?: string) => void) => {
        answer(call.request).then(
          (value) => reply(null, value),
          (error: unknown) => reply(error instanceof Error ? error : new Error(String(error))),
        )
      },
    })
    const port = await new Promise<number>((resolve, reject) => {
      server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
        error ? reject(error) : resolve(bound),
      )
    })
    const url = `http://127.0.0.1:${port}`
    const membership = cluster.createMembership({ data: { url, weight: 1 } })
    await membership.register()
    return new KeysServer(server, url, membership)
  }

  /** From now on clients send it nothing new. */
  async drain(): Promise<void> {
    const signal = AbortSignal.timeout(STOP_TIMEOUT_MS)
    await this.#membership.setData({ url: this.url, weight: 0 }, { signal }).catch(() => undefined)
  }

  /** Loses no call: those that are under way are answered before the server closes. */
  async stop(): Promise<void> {
    await this.drain()
    const signal = AbortSignal.timeout(STOP_TIMEOUT_MS)
    await this.#membership.deregister({ signal }).catch(() => undefined)
    await new Promise<void>((resolve) => this.#server.tryShutdown(() => resolve()))
  }
}

export class KeysClient extends Client {
  constructor(target: string) {
    super(target, credentials.createInsecure())
  }

  ask(question: string, metadata: Metadata): Promise<string> {
    return new Promise((resolve, reject) => {
      const deadline = { deadline: Date.now() + 10_000 }
      this.makeUnaryRequest(PATH, encode, decode, question, metadata, deadline, (error, value) =>
        error ? reject(error) : resolve(value ?? ''),
      )
    })
  }
}
