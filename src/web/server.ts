/**
 * The server of the page: files of the package, and answers as JSON. It reads and never writes. Whoever can reach its
 * port sees what a reader sees; a page of another site does not (see requests.ts, and the headers here).
 */
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { MembershipError } from '../api/errors.js'
import { errorCode } from '../postgres/errors.js'
import { Answerer, type Diagnose } from './answering.js'
import type { Refusal } from './answers.js'
import { Database } from './database.js'
import { checkHost, RequestError } from './requests.js'

export interface PageOptions {
  readonly connection: string
  readonly schema: string
  readonly host: string
  /** 0: any that is free. */
  readonly port: number
  readonly diagnose: Diagnose
}

export interface Page {
  readonly url: string
  /** Ends every request and the connection at once. */
  close(): void
}

/** Answers as soon as the database does, and rejects if it cannot be asked at all. */
export async function servePage(options: PageOptions): Promise<Page> {
  const database = new Database({
    connection: options.connection,
    schema: options.schema,
    applicationName: 'pg-membership web',
  })
  try {
    await database.ask(async (query) => query('select 1', []))
    const files = await pageFiles()
    const answerer = new Answerer({ database, ...options })
    const server = createServer({ requestTimeout: 10_000, headersTimeout: 10_000 }, (request, response) => {
      void respond(request, response, { files, answerer, host: options.host })
    })
    server.maxConnections = MAX_CONNECTIONS
    server.listen(options.port, options.host)
    await once(server, 'listening')
    return {
      url: urlOf(server, options.host),
      close: () => {
        server.close()
        server.closeAllConnections()
        database.close()
      },
    }
  } catch (error) {
    database.close()
    throw error
  }
}

const MAX_CONNECTIONS = 100

function urlOf(server: Server, host: string): string {
  const { port } = server.address() as AddressInfo
  return `http://${host.includes(':') ? `[${host}]` : host}:${String(port)}/`
}

interface PageFile {
  readonly type: string
  readonly body: Buffer
}

const TYPES: Readonly<Record<string, string>> = {
  'index.html': 'text/html; charset=utf-8',
  'page.js': 'text/javascript; charset=utf-8',
  'page.css': 'text/css; charset=utf-8',
  'icon.svg': 'image/svg+xml',
}

/** `npm run build` puts them beside this file. */
async function pageFiles(): Promise<ReadonlyMap<string, PageFile>> {
  const entries = Object.entries(TYPES).map(async ([name, type]) => {
    const body = await readFile(new URL(`page/${name}`, import.meta.url))
    return [name === 'index.html' ? '/' : `/${name}`, { type, body }] as const
  })
  return new Map(await Promise.all(entries))
}

/** Nothing is loaded from elsewhere, nothing in the page runs as a program but page.js, and nobody frames or reads it. */
const HEADERS: Readonly<Record<string, string>> = {
  'Content-Security-Policy': [
    `default-src 'none'`,
    `script-src 'self'`,
    `style-src 'self'`,
    `img-src 'self'`,
    `connect-src 'self'`,
    `base-uri 'none'`,
    `form-action 'none'`,
    `frame-ancestors 'none'`,
    `require-trusted-types-for 'script'`,
    `trusted-types 'none'`,
  ].join('; '),
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
  'Cache-Control': 'no-store',
}

interface Serving {
  readonly files: ReadonlyMap<string, PageFile>
  readonly answerer: Answerer
  readonly host: string
}

async function respond(request: IncomingMessage, response: ServerResponse, serving: Serving): Promise<void> {
  for (const [name, value] of Object.entries(HEADERS)) response.setHeader(name, value)
  try {
    const { type, body } = await answerTo(request, serving)
    send(response, 200, type, body)
  } catch (error) {
    const status = error instanceof RequestError ? error.status : 503
    if (status === 405) response.setHeader('Allow', 'GET, HEAD')
    const refusal: Refusal = { error: inWords(error) }
    send(response, status, JSON_TYPE, JSON.stringify(refusal))
  }
}

const STATEMENT_TIMEOUT = '57014'
const JSON_TYPE = 'application/json; charset=utf-8'

async function answerTo(
  request: IncomingMessage,
  { files, answerer, host }: Serving,
): Promise<{ readonly type: string; readonly body: string | Buffer }> {
  checkHost(request.headers.host, host)
  if (request.method !== 'GET' && request.method !== 'HEAD') throw new RequestError(405, 'Only GET is served')
  const [path = '', search = ''] = (request.url ?? '').split('?', 2)
  const file = files.get(path)
  if (file !== undefined) return file
  const answer = answerer.answer(path, new URLSearchParams(search))
  if (answer === undefined) throw new RequestError(404, 'There is nothing here')
  return { type: JSON_TYPE, body: await answer }
}

/** Node leaves out the body of an answer to HEAD. */
function send(response: ServerResponse, status: number, type: string, body: string | Buffer): void {
  response.writeHead(status, { 'Content-Type': type, 'Content-Length': Buffer.byteLength(body) })
  response.end(body)
}

function inWords(error: unknown): string {
  if (error instanceof RequestError || error instanceof MembershipError) return error.message
  if (errorCode(error) === STATEMENT_TIMEOUT) return 'The database took too long to answer'
  // If several addresses of a host failed, the messages are in the parts.
  const { message } = (error instanceof AggregateError ? error.errors[0] : error) as Error
  return `The database cannot be reached: ${message}. Look whether PostgreSQL runs, and can be reached from where this page is served`
}
