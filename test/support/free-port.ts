import { createServer } from 'node:net'

/**
 * A free port of 127.0.0.1, below every system's ephemeral range: while nothing listens on an ephemeral
 * port, a client that keeps trying it can be given it as its own source port, and connects to itself.
 */
export async function freePort(): Promise<number> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const port = 20_000 + Math.floor(Math.random() * 12_000)
    if (await isFree(port)) return port
  }
  throw new Error('no free port between 20000 and 32000 in 100 attempts')
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer()
    server.once('error', () => {
      resolve(false)
    })
    server.listen(port, '127.0.0.1', () => {
      server.close(() => {
        resolve(true)
      })
    })
  })
}
