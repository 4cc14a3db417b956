/**
 * A private PgBouncer in front of a test's PostgreSQL, on a free port of 127.0.0.1, that tests can freeze,
 * kill and start again. Nothing of it outlives this process: see watchdog.ts.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { chownSync, closeSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { freePort } from './free-port.js'
import { NOBODY } from './postgres-binaries.js'
import { pathOf } from './require-programs.js'
import { end, isRunning, Watchdog } from './watchdog.js'

export type PoolMode = 'session' | 'transaction' | 'statement'

export interface PgBouncerOptions {
  /** The database behind it. */
  readonly url: string
  readonly mode: PoolMode
  /** As in the section [pgbouncer] of its configuration. */
  readonly settings?: Readonly<Record<string, string | number>>
}

const START_TIMEOUT_MS = 20_000
const CONSOLE_USER = 'console'

export async function startPgBouncer(options: PgBouncerOptions): Promise<PgBouncer> {
  const pooler = new PgBouncer(options)
  try {
    await pooler.start()
    return pooler
  } catch (error) {
    await pooler[Symbol.asyncDispose]()
    throw error
  }
}

export class PgBouncer implements AsyncDisposable {
  readonly #options: PgBouncerOptions
  readonly #watchdog = new Watchdog()
  readonly #account = process.getuid?.() === 0 ? NOBODY : undefined // it refuses to be root
  #port = 0
  #process: ChildProcess | undefined

  constructor(options: PgBouncerOptions) {
    this.#options = options
    if (this.#account) chownSync(this.#watchdog.directory, this.#account.uid, this.#account.gid)
  }

  get database(): string {
    return new URL(this.#options.url).pathname.slice(1)
  }

  /** The same database, through it. */
  get url(): string {
    const url = new URL(this.#options.url)
    url.hostname = '127.0.0.1'
    url.port = String(this.#port)
    return url.href
  }

  /** On the same port as before; resolves once it answers. */
  async start(): Promise<void> {
    const chosen = this.#port
    const deadline = Date.now() + START_TIMEOUT_MS
    for (;;) {
      this.#port = chosen || (await freePort())
      const child = this.#spawn()
      if (await this.#answers(child, deadline)) {
        this.#process = child
        return
      }
      await end(child, 'SIGKILL')
      // Another process may have been quicker with the port.
      if (Date.now() > deadline || !this.#log().includes('ddress already in use')) {
        throw new Error(`pgbouncer did not start\n${this.#log()}`)
      }
      await sleep(100)
    }
  }

  /** Every connection through it is closed by the kernel. */
  async kill(): Promise<void> {
    if (this.#process) await end(this.#process, 'SIGKILL')
    this.#process = undefined
    this.#watchdog.watch(undefined)
  }

  /** Its connections stay open and fall silent; new ones are accepted by the kernel only. */
  freeze(): void {
    this.#process?.kill('SIGSTOP')
  }

  thaw(): void {
    this.#process?.kill('SIGCONT')
  }

  /** On its console: RECONNECT, KILL, SHOW STATS, … */
  async command(text: string): Promise<Record<string, string>[]> {
    const address = { host: '127.0.0.1', port: this.#port }
    const console = new pg.Client({ ...address, database: 'pgbouncer', user: CONSOLE_USER })
    console.on('error', () => undefined)
    await console.connect()
    try {
      return (await console.query<Record<string, string>>(text)).rows
    } finally {
      await console.end()
    }
  }

  /** The backends at the other end of its server connections. */
  async backends(): Promise<number[]> {
    return (await this.command('SHOW SERVERS')).map(({ remote_pid }) => Number(remote_pid))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill()
    await this.#watchdog.dismiss()
  }

  #spawn(): ChildProcess {
    const { directory } = this.#watchdog
    const configuration = join(directory, 'pgbouncer.ini')
    writeFileSync(configuration, this.#configuration())
    const log = openSync(this.#logFile, 'w')
    const child = spawn(pathOf('pgbouncer'), [configuration], {
      ...this.#account,
      cwd: directory,
      env: { LC_ALL: 'C' },
      detached: true,
      stdio: ['ignore', log, log],
    })
    closeSync(log)
    child.on('error', () => undefined)
    child.unref()
    this.#watchdog.watch(child.pid)
    return child
  }

  #configuration(): string {
    const { url, mode, settings } = this.#options
    const { hostname, port, username, password } = new URL(url)
    const server = [`host=${hostname}`, `port=${port || '5432'}`, `user=${quoted(username || 'postgres')}`]
    if (password !== '') server.push(`password=${quoted(password)}`)
    const all = {
      listen_addr: '127.0.0.1',
      listen_port: this.#port,
      unix_socket_dir: '',
      // Whoever comes is let in, and is the user above on the server.
      auth_type: 'any',
      admin_users: CONSOLE_USER,
      pool_mode: mode,
      default_pool_size: 40,
      // Tests stop servers behind it; by default it would try again only every 15 s.
      server_login_retry: 1,
      ...settings,
    }
    const lines = Object.entries(all).map(([name, value]) => `${name} = ${String(value)}`)
    return ['[databases]', `* = ${server.join(' ')}`, '[pgbouncer]', ...lines, ''].join('\n')
  }

  async #answers(child: ChildProcess, deadline: number): Promise<boolean> {
    while (isRunning(child) && Date.now() < deadline) {
      const answered = await this.command('SHOW VERSION').catch(() => [])
      // Another program may have the port.
      if (answered.length > 0 && isRunning(child)) return true
      await sleep(10)
    }
    return false
  }

  get #logFile(): string {
    return join(this.#watchdog.directory, 'pgbouncer.log')
  }

  #log(): string {
    return readFileSync(this.#logFile, 'utf8')
  }
}

function quoted(text: string): string {
  return `'${decodeURIComponent(text).replaceAll("'", "''")}'`
}
