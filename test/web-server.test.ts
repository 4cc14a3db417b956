/** The server of the page: what it refuses, what it tells browsers, and how it lives with its database. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { type IncomingMessage, request } from 'node:http'
import { text } from 'node:stream/consumers'
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { Members, Refusal } from '../dist/web/answers.js'
import { type Page, type PageOptions, servePage } from '../dist/web/server.js'
import { MAIN, pgMembershipProcess } from './support/command-line.js'
import { adminClient, databaseUrl, freshSchema } from './support/database.js'
import { startProxy } from './support/tcp-proxy.js'
import { until } from './support/until.js'

let schema: string
let page: Page

function serve(options: Partial<PageOptions> = {}): Promise<Page> {
  return servePage({
    connection: databaseUrl(),
    schema,
    host: '127.0.0.1',
    port: 0,
    diagnose: () => Promise.resolve([]),
    ...options,
  })
}

beforeAll(async () => {
  schema = await freshSchema()
  page = await serve()
  return () => page.close()
})

interface Answered {
  readonly status: number
  readonly headers: NodeJS.Dict<string | string[]>
  readonly body: string
}

/** With headers and paths that fetch() would not send. */
async function send(path: string, { method = 'GET', headers = {}, to = page } = {}): Promise<Answered> {
  const sent = request(to.url, { method, path, headers }).end()
  const [response] = (await once(sent, 'response')) as [IncomingMessage]
  return { status: response.statusCode ?? 0, headers: response.headers, body: await text(response) }
}

describe('contract: what browsers are told', () => {
  const PATHS = ['/', '/page.js', '/page.css', '/icon.svg', '/api/pulse', '/api/nonsense']

  test.each(PATHS)('%s has a strict policy, and lets no other site read or frame it', async (path) => {
    const { headers } = await send(path, { headers: { origin: 'https://example.org' } })
    const policy = String(headers['content-security-policy'])
    expect(policy).toContain(`default-src 'none'; script-src 'self'; style-src 'self'`)
    expect(policy).not.toMatch(/unsafe|https?:|\*|data:/)
    expect(headers).toMatchObject({
      'cross-origin-resource-policy': 'same-origin',
      'x-content-type-options': 'nosniff',
      'x-frame-options': 'DENY',
      'cache-control': 'no-store',
    })
    expect(Object.keys(headers).filter((name) => name.startsWith('access-control'))).toEqual([])
  })

  test('nothing is loaded from elsewhere, and no script or style is inline', async () => {
    const { body } = await send('/')
    expect(body).not.toMatch(/<style|style=|<script(?![^>]*src=)|\son\w+=/)
    const urls = PATHS.slice(0, 4).map(async (path) =>
      (await send(path)).body.match(/\b(https?:)?\/\/[\w.-]+/g),
    )
    const names = (await Promise.all(urls)).flatMap((found) => found ?? [])
    // Names of XML vocabularies: nobody loads them.
    expect(names.filter((name) => !name.endsWith('//www.w3.org'))).toEqual([])
  })

  test('answers are JSON, with the type said', async () => {
    expect((await send('/api/pulse')).headers['content-type']).toBe('application/json; charset=utf-8')
  })
})

describe('contract: what is refused', () => {
  test.each([
    'example.org',
    'example.org:80',
    '127.0.0.1.example.org',
    'localhost.example.org:7788',
    'localhost@example.org',
    '[::1',
    '127.0.0.1:80:80',
  ])('the host name %j, which somebody else can lead here (DNS rebinding)', async (host) => {
    for (const path of ['/', '/api/members']) {
      const { status, body } = await send(path, { headers: { host } })
      expect(status).toBeGreaterThanOrEqual(400)
      expect(body).not.toContain('<!doctype')
    }
  })

  test.each(['localhost', 'LOCALHOST:1', '127.0.0.1:7788', '[::1]:7788', '192.168.1.4'])(
    'but not %j, which nobody can',
    async (host) => {
      expect((await send('/', { headers: { host } })).status).toBe(200)
    },
  )

  test.each(['POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH'])('%s: this page only reads', async (method) => {
    const { status, headers } = await send('/api/pulse', { method })
    expect({ status, allow: headers.allow }).toEqual({ status: 405, allow: 'GET, HEAD' })
  })

  test.each([
    '/server.js',
    '/page/page.js',
    '/../package.json',
    '/%2e%2e/package.json',
    '//',
    '/api',
    '/api/',
  ])('the path %s: only the files of the page are served', async (path) => {
    expect((await send(path)).status).toBe(404)
  })

  test.each([
    ['pulse?nonsense=1', 'nonsense'],
    ['pulse?cluster=a&cluster=b', 'cluster'],
    ['pulse?cluster=', 'cluster'],
    ['pulse?cluster=%00', 'cluster'],
    [`pulse?cluster=${'x'.repeat(256)}`, 'cluster'],
    ['members?at=now', 'at must be'],
    ['members?at=-1', 'at must be'],
    ['members?at=1e400', 'at must be'],
    ['members?at=9000000000000000', 'at must be'],
    ['timeline?from=1', 'to is missing'],
    ['timeline?from=2&to=2', 'from must be before to'],
    ['changes?limit=0', 'limit'],
    ['changes?limit=1001', 'limit'],
    ['changes?limit=1.5', 'limit'],
    ['data?cluster=a&token=1&id=x', 'id must be'],
    ['data?cluster=a&id=00000000-0000-0000-0000-000000000000', 'token is missing'],
    ['data?token=1&id=00000000-0000-0000-0000-000000000000', 'cluster is missing'],
    ['findings?cluster=a', 'cluster'],
  ])('%s', async (path, words) => {
    const { status, body } = await send(`/api/${path}`)
    expect(status).toBe(400)
    expect((JSON.parse(body) as Refusal).error).toContain(words)
  })

  test('a request with headers without end', async () => {
    expect((await send('/', { headers: { cookie: 'x'.repeat(20_000) } })).status).toBe(431)
  })
})

test('contract: the first and the last moment that can be asked for are answered', async () => {
  for (const path of ['members?at=0', 'members?at=8640000000000000', 'timeline?from=0&to=8640000000000000']) {
    expect((await send(`/api/${path}`)).status).toBe(200)
  }
})

test('contract: pages that ask the same at the same time cost one question', async () => {
  const answers = await Promise.all(Array.from({ length: 50 }, () => send('/api/members')))
  const times = answers.map(({ body }) => (JSON.parse(body) as Members).nowMs)
  expect(new Set(times).size).toBe(1)
})

test('contract: too many different questions at the same time are refused, and the others answered', async () => {
  await using admin = await adminClient()
  await admin.query(`begin; lock table ${schema}.members in access exclusive mode`)
  const paths = Array.from({ length: 90 }, (_, n) => `/api/members?cluster=${String(n)}`)
  const refused: string[] = []
  const answers = paths.map(async (path) => {
    const { status } = await send(path)
    if (status === 503) refused.push(path)
    return status
  })
  await until(() => refused.length === 90 - 64, { message: 'those are refused for which there is no room' })
  await admin.query('commit')
  const statuses = await Promise.all(answers)
  expect(statuses.filter((status) => status === 200)).toHaveLength(64)
  await until(async () => (await send('/api/members?cluster=after')).status === 200, {
    message: 'what was kept is forgotten',
  })
})

test('contract: while the database is away the page says so in words, and it answers again afterwards', async () => {
  await using proxy = await startProxy(databaseUrl())
  const away = await serve({ connection: proxy.url(databaseUrl()) })
  onTestFinished(() => away.close())
  expect((await send('/api/pulse?cluster=a', { to: away })).status).toBe(200)
  await proxy.cut()
  const refused = await send('/api/pulse?cluster=b', { to: away })
  expect(refused.status).toBe(503)
  expect((JSON.parse(refused.body) as Refusal).error).toMatch(
    /^The database cannot be reached: .*Look whether/,
  )
  expect((await send('/', { to: away })).status).toBe(200)
  await proxy.restore()
  await until(async () => (await send('/api/pulse', { to: away })).status === 200, {
    message: 'it has a new connection',
  })
})

test('contract: a schema that is dropped is told with what to do, and found again when it is back', async () => {
  const name = await freshSchema()
  const moved = await serve({ schema: name })
  onTestFinished(() => moved.close())
  await using admin = await adminClient()
  await admin.query(`alter schema ${name} rename to ${name}_away`)
  const { status, body } = await send('/api/pulse', { to: moved })
  expect({ status, error: (JSON.parse(body) as Refusal).error }).toEqual({
    status: 503,
    error: expect.stringContaining('npx pg-membership migrate') as string,
  })
  await admin.query(`alter schema ${name}_away rename to ${name}`)
  expect((await send('/api/pulse?cluster=again', { to: moved })).status).toBe(200)
})

describe('contract: pg-membership web', () => {
  test('prints the address, warns that others can see it, and ends at once with Ctrl-C', async () => {
    const program = spawn(
      process.execPath,
      [MAIN, 'web', '--port', '0', '--host', '0.0.0.0', '--schema', schema],
      { env: { ...process.env, DATABASE_URL: databaseUrl() } },
    )
    onTestFinished(() => void program.kill('SIGKILL'))
    let [stdout, stderr] = ['', '']
    program.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()))
    program.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
    const [, url = ''] = await until(() => /^(http:\S+)\n/m.exec(stdout), { message: () => stdout + stderr })
    // A browser that keeps its connection open must not keep the program.
    const response = await fetch(url.replace('0.0.0.0', '127.0.0.1'))
    expect(await response.text()).toBe(readFileSync(new URL('../web/index.html', import.meta.url), 'utf8'))
    expect(stderr).toContain('whoever can reach 0.0.0.0')
    const exited = once(program, 'exit')
    program.kill('SIGINT')
    expect(await exited).toEqual([0, null])
  })

  test('on a port that is taken: one line, exit code 1', async () => {
    const { port } = new URL(page.url)
    const { code, stdout, stderr } = await pgMembershipProcess(['web', '--port', port, '--schema', schema])
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toMatch(/^pg-membership: .*port.*\n$/)
  })
})
