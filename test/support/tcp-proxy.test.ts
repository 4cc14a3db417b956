import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { startProxy, type TcpProxy } from './tcp-proxy.js'
import { until } from './until.js'

/** Answers every chunk with its name and the chunk, and remembers what it heard. */
class Echo implements AsyncDisposable {
  readonly heard: string[] = []
  readonly sockets = new Set<Socket>()
  resets = 0
  readonly #server: Server

  constructor(name: string) {
    this.#server = createServer((socket) => {
      this.sockets.add(socket)
      socket.on('error', () => this.resets++)
      socket.on('close', () => this.sockets.delete(socket))
      socket.on('data', (chunk) => {
        this.heard.push(chunk.toString())
        socket.write(`${name}:${chunk.toString()}`)
      })
    })
  }

  async listen(): Promise<this> {
    await once(this.#server.listen(0, '127.0.0.1'), 'listening')
    return this
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  get url(): string {
    return `postgres://me:secret@127.0.0.1:${String(this.port)}/db?application_name=x`
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.sockets) socket.destroy()
    this.#server.close()
    await once(this.#server, 'close')
  }
}

class Client {
  received = ''
  error: NodeJS.ErrnoException | undefined
  ended = false
  readonly socket: Socket

  constructor(port: number) {
    this.socket = connect(port, '127.0.0.1')
    this.socket.on('data', (chunk) => (this.received += chunk.toString()))
    this.socket.on('error', (error) => (this.error = error))
    this.socket.on('end', () => (this.ended = true))
  }

  async hears(text: string): Promise<void> {
    await until(() => this.received === text, { message: () => `'${text}', but '${this.received}'` })
  }

  async fails(code: string): Promise<void> {
    await until(() => this.error?.code === code, { message: () => `${code}, but ${String(this.error)}` })
  }
}

describe('a TCP proxy', () => {
  let echo: Echo
  let proxy: TcpProxy
  const clients: Client[] = []

  function client(): Client {
    const client = new Client(proxy.port)
    clients.push(client)
    return client
  }

  async function connected(): Promise<Client> {
    const result = client()
    result.socket.write('hello')
    await result.hears('echo:hello')
    result.received = ''
    return result
  }

  beforeEach(async () => {
    echo = await new Echo('echo').listen()
    proxy = await startProxy(echo.url)
  })

  afterEach(async () => {
    for (const { socket } of clients.splice(0)) socket.destroy()
    await proxy[Symbol.asyncDispose]()
    await echo[Symbol.asyncDispose]()
  })

  test('passes bytes both ways, and counts connections', async () => {
    const one = await connected()
    await connected()
    expect(proxy.connections).toBe(2)
    one.socket.end()
    await until(() => one.ended && proxy.connections === 1, { message: 'the end is passed on' })
    expect(one.error).toBeUndefined()
  })

  test('passes large amounts unharmed to a slow reader', async () => {
    const one = await connected()
    one.socket.pause()
    const [socket] = echo.sockets
    const large = 'abcdefghij'.repeat(1_000_000)
    socket?.write(large)
    await until(() => socket?.writableNeedDrain, { message: 'back pressure reaches the sender' })
    one.socket.resume()
    await until(() => one.received.length === large.length, { message: 'everything arrives' })
    expect(one.received === large).toBe(true)
  })

  test('rewrites host and port of a URL, and nothing else', () => {
    expect(proxy.url('postgres://me:secret@db.example:5432/db?application_name=x')).toBe(
      `postgres://me:secret@127.0.0.1:${String(proxy.port)}/db?application_name=x`,
    )
  })

  test('cut resets what is open and refuses what is new, until restored on the same port', async () => {
    const one = await connected()
    const { port } = proxy
    await proxy.cut()
    await one.fails('ECONNRESET')
    await until(() => echo.resets === 1, { message: 'the server is reset, too' })
    expect(proxy.connections).toBe(0)
    await client().fails('ECONNREFUSED')
    await proxy.restore()
    expect(proxy.port).toBe(port)
    await connected()
  })

  test('refuse turns away what is new, until restored on the same port; what is open goes on', async () => {
    const one = await connected()
    proxy.refuse()
    await client().fails('ECONNREFUSED')
    one.socket.write('still here')
    await one.hears('echo:still here')
    await proxy.restore()
    await connected()
    expect(proxy.connections).toBe(2)
  })

  test('reset leaves the door open', async () => {
    const one = await connected()
    proxy.reset()
    await one.fails('ECONNRESET')
    await connected()
  })

  test('abandoned, a connection is reset for its client, and the server does not hear of it', async () => {
    const one = await connected()
    proxy.abandon()
    await one.fails('ECONNRESET')
    await connected()
    expect([echo.sockets.size, echo.resets]).toEqual([2, 0])
    proxy.reset()
    await until(() => echo.sockets.size === 0, { message: 'the server is reset, too' })
  })

  test('frozen, it is silent in both directions, then passes on what was held back', async () => {
    const one = await connected()
    proxy.freeze()
    one.socket.write('held')
    for (const socket of echo.sockets) socket.write('held too')
    const late = client()
    await once(late.socket, 'connect')
    late.socket.write('late')
    // Another road to the same server shows that time has passed for it.
    await using other = await startProxy(echo.url)
    const witness = new Client(other.port)
    witness.socket.write('witness')
    await witness.hears('echo:witness')
    witness.socket.destroy()
    expect(echo.heard).toEqual(['hello', 'witness'])
    expect(one.received).toBe('')
    proxy.thaw()
    await one.hears('held tooecho:held')
    await late.hears('echo:late')
  })

  test('frozen in one direction, it passes the other', async () => {
    const one = await connected()
    proxy.freeze({ direction: 'toClient' })
    one.socket.write('request')
    await until(() => echo.heard.includes('request'), { message: 'the request arrives' })
    expect(one.received).toBe('')
    proxy.thaw()
    await one.hears('echo:request')

    one.received = ''
    proxy.freeze({ direction: 'toServer' })
    one.socket.write('next')
    for (const socket of echo.sockets) socket.write('news')
    await one.hears('news')
    expect(echo.heard).not.toContain('next')
  })

  test('frozen, it does not tell the server that the client is gone; thawed, it does', async () => {
    const one = await connected()
    proxy.freeze()
    one.socket.resetAndDestroy()
    const other = client()
    await once(other.socket, 'connect')
    await until(() => echo.sockets.size === 2, { message: 'the other reaches the server, silently' })
    expect(proxy.connections).toBe(2)
    proxy.thaw()
    await until(() => proxy.connections === 1 && echo.sockets.size === 1, { message: 'the server knows' })
  })

  test('delay adds latency each way, and keeps the order when it ends', async () => {
    const one = await connected()
    proxy.delay(100)
    const start = performance.now()
    one.socket.write('slow')
    await one.hears('echo:slow')
    expect(performance.now() - start).toBeGreaterThanOrEqual(198)
    one.socket.write('1')
    await new Promise((resolve) => one.socket.write('', resolve))
    proxy.delay(0)
    one.socket.write('2')
    await until(() => one.received.length > 'echo:slow'.length + 6, { message: 'both arrive' })
    expect(echo.heard.join('')).toBe('helloslow12')
  })

  test('switchTo sends new connections elsewhere', async () => {
    await using second = await new Echo('second').listen()
    const one = await connected()
    proxy.switchTo(second.port)
    const two = client()
    two.socket.write('x')
    await two.hears('second:x')
    one.socket.write('y')
    await one.hears('echo:y')
  })

  test('a server that is down shows as a reset', async () => {
    await using second = await new Echo('second').listen()
    proxy.switchTo(second.port)
    await second[Symbol.asyncDispose]()
    await client().fails('ECONNRESET')
  })

  test('loses the reply to one request, which the server has executed', async () => {
    const bystander = await connected()
    const one = await connected()
    const lost = proxy.cutOnce({
      direction: 'toClient',
      afterBytes: 0,
      when: ({ sent }) => sent.includes('insert'),
    })
    bystander.socket.write('select')
    await bystander.hears('echo:select')
    one.socket.write('insert')
    await lost
    await one.fails('ECONNRESET')
    expect(one.received).toBe('')
    expect(echo.heard).toContain('insert')
    bystander.socket.write('insert')
    await bystander.hears('echo:selectecho:insert')
  })

  test('loses a request, of the client whose startup packet matches', async () => {
    const bystander = await connected()
    const one = client()
    one.socket.write('app=one')
    await one.hears('echo:app=one')
    const lost = proxy.cutOnce({
      direction: 'toServer',
      afterBytes: 3,
      when: ({ startup }) => startup.includes('app=one'),
    })
    bystander.socket.write('ok')
    await bystander.hears('echo:ok')
    one.socket.write('abc')
    await one.hears('echo:app=oneecho:abc')
    one.socket.write('def')
    await lost
    await one.fails('ECONNRESET')
    expect(echo.heard.join('')).toBe('helloapp=oneokabc')
  })

  test('passes the first bytes of a reply before it cuts', async () => {
    const one = await connected()
    const lost = proxy.cutOnce({ direction: 'toClient', afterBytes: 6, when: () => true })
    one.socket.write('abc')
    await lost
    // Linux reports a reset that follows unread data as an end.
    await until(() => one.error ?? one.ended, { message: 'the connection is gone' })
    expect(one.received).toBe('echo:a')
  })
})
