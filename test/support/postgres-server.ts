/**
 * A private PostgreSQL in a temporary directory, for tests, benchmarks and the demo.
 *
 * Nothing of it outlives this process. Disposing stops the server and removes the directory; when this
 * process dies without that, even by SIGKILL, a watchdog notices that its stdin has closed and does both.
 */
import { type ChildProcess, spawn, type StdioOptions } from 'node:child_process'
import { appendFileSync, chownSync, closeSync, mkdirSync, openSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from './free-port.js'
import { giveTo, installedBinaries, NOBODY, run, runnableBinaries } from './postgres-binaries.js'
import { end, exit, isRunning, Watchdog } from './watchdog.js'

export interface PostgresOptions {
  /** false: faster, and what is committed may be lost when the machine fails. For tests only; default true. */
  readonly fsync?: boolean
  /** Server settings, as in postgresql.conf. */
  readonly settings?: Readonly<Record<string, string>>
  /** A directory with bin/, lib/ and share/ of another PostgreSQL; default the one that npm installed. */
  readonly binaries?: string
  /** Fills the data directory, which is there and empty. Default: as TEST_DATA_DIRECTORY is, else by initdb. */
  readonly fill?: (dataDirectory: string) => void | Promise<void>
}

/** fast: disconnects everybody and shuts down cleanly. immediate: as after a crash. kill: SIGKILL. */
export type StopMode = 'fast' | 'immediate' | 'kill'

export interface PostgresServer extends AsyncDisposable {
  readonly url: string
  readonly port: number
  /** Of the postmaster; undefined while stopped. */
  readonly pid: number | undefined
  readonly dataDirectory: string
  /** Resolves once it is gone; the directory stays. */
  stop(mode?: StopMode): Promise<void>
  /** Again, on the same port and data; resolves once it accepts connections. */
  start(): Promise<void>
  /** Stops it and removes the directory. */
  [Symbol.asyncDispose](): Promise<void>
}

export async function startPostgres(options: PostgresOptions = {}): Promise<PostgresServer> {
  const server = new EmbeddedPostgres(options)
  try {
    await server.initialize()
    await server.start()
    return server
  } catch (error) {
    await server[Symbol.asyncDispose]()
    throw error
  }
}

/** A data directory as initdb makes it, for TEST_DATA_DIRECTORY: initdb costs seconds, a copy of what it made does not. */
export async function initializeOnly(): Promise<
  Pick<PostgresServer, 'dataDirectory' | typeof Symbol.asyncDispose>
> {
  const server = new EmbeddedPostgres({})
  await server.initialize()
  return server
}

const START_TIMEOUT_MS = 60_000

const SIGNALS: Record<StopMode, NodeJS.Signals[]> = {
  fast: ['SIGINT', 'SIGQUIT', 'SIGKILL'],
  immediate: ['SIGQUIT', 'SIGKILL'],
  kill: ['SIGKILL'],
}

/** Passes: another process was quicker with the port, or backends of a killed server have not noticed yet. */
const TRANSIENT = /Address already in use|shared memory block|lock file "postmaster.pid" already exists/

class EmbeddedPostgres implements PostgresServer {
  readonly dataDirectory: string
  readonly #account = process.getuid?.() === 0 ? NOBODY : undefined
  readonly #options: PostgresOptions
  readonly #watchdog = new Watchdog()
  readonly #directory = this.#watchdog.directory
  #binaries = ''
  #port = 0
  #server: ChildProcess | undefined

  constructor(options: PostgresOptions) {
    this.#options = options
    this.dataDirectory = join(this.#directory, 'data')
  }

  get port(): number {
    return this.#port
  }

  get url(): string {
    return `postgres://postgres@127.0.0.1:${String(this.#port)}/postgres`
  }

  get pid(): number | undefined {
    return this.#server?.pid
  }

  async initialize(): Promise<void> {
    if (this.#account) chownSync(this.#directory, this.#account.uid, this.#account.gid)
    const { binaries, fill = copyOfMade(binaries) } = this.#options
    this.#binaries = runnableBinaries(binaries ?? installedBinaries(), this.#directory, this.#account)
    if (fill) {
      mkdirSync(this.dataDirectory, { mode: 0o700 })
      await fill(this.dataDirectory)
      if (this.#account) giveTo(this.#account, this.dataDirectory)
      return
    }
    const flags = ['-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C', '--no-sync']
    const initdb = this.#spawn('initdb', ['-D', this.dataDirectory, ...flags])
    if ((await exit(initdb)) !== 0) throw new Error(`initdb failed\n${this.#log()}`)
  }

  async start(): Promise<void> {
    if (this.#server) return
    const { fsync = true, settings } = this.#options
    const all = { listen_addresses: '127.0.0.1', fsync: fsync ? 'on' : 'off', ...settings, ...slowDisk() }
    const flags = Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`])
    const chosen = this.#port
    const deadline = Date.now() + START_TIMEOUT_MS
    for (;;) {
      this.#port = chosen || (await freePort())
      const logged = this.#log().length
      const address = ['-D', this.dataDirectory, '-p', String(this.#port), '-k', '']
      const server = this.#spawn('postgres', [...address, ...flags])
      if (await this.#isReady(server, deadline)) {
        this.#server = server
        server.once('exit', () => {
          if (this.#server === server) this.#stopped()
        })
        return
      }
      await end(server, 'SIGKILL')
      this.#stopped()
      const log = this.#log().slice(logged)
      if (!TRANSIENT.test(log) || Date.now() > deadline) throw new Error(`postgres did not start\n${log}`)
      await sleep(100)
    }
  }

  async stop(mode: StopMode = 'fast'): Promise<void> {
    const server = this.#server
    if (!server) return
    for (const signal of SIGNALS[mode]) {
      if (await end(server, signal)) break
    }
    this.#stopped()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
    await this.#watchdog.dismiss()
  }

  #stopped(): void {
    this.#server = undefined
    this.#watchdog.watch(undefined)
  }

  /** Unreferenced, so that a server which nobody disposed of does not keep the process alive. */
  #spawn(program: string, args: string[]): ChildProcess {
    const log = openSync(this.#logFile, 'a')
    const stdio: StdioOptions = ['ignore', log, log]
    const child = spawn(join(this.#binaries, 'bin', program), args, {
      ...this.#account,
      cwd: this.#directory,
      // Nothing of PG* from outside, and messages in English: TRANSIENT reads them.
      env: { PATH: process.env.PATH, LC_ALL: 'C' },
      detached: true,
      stdio,
    })
    closeSync(log)
    child.on('error', ({ message }) => {
      appendFileSync(this.#logFile, `${message}\n`)
    })
    child.unref()
    this.#watchdog.watch(child.pid)
    return child
  }

  /** As pg_ctl does it: the server writes into its pid file when it accepts connections. */
  async #isReady(server: ChildProcess, deadline: number): Promise<boolean> {
    while (isRunning(server) && Date.now() < deadline) {
      const [pid, , , , , , , status] = read(join(this.dataDirectory, 'postmaster.pid')).split('\n')
      if (pid === String(server.pid) && status?.trim() === 'ready') return true
      await sleep(10)
    }
    return false
  }

  get #logFile(): string {
    return join(this.#directory, 'server.log')
  }

  #log(): string {
    return read(this.#logFile)
  }
}

/** Only the same binaries can run what was made. */
function copyOfMade(binaries: string | undefined): PostgresOptions['fill'] {
  const made = process.env.TEST_DATA_DIRECTORY
  if (made === undefined || binaries !== undefined) return undefined
  // Node's own takes eight times as long.
  return (directory) => run('cp', ['-R', `${made}/.`, directory])
}

/** As on a disk that takes so long to flush: `npm run test:repeat -- --worlds slow-disk`. */
function slowDisk(): Readonly<Record<string, string>> {
  const delayMs = Number(process.env.TEST_FLUSH_DELAY_MS ?? 0)
  if (delayMs === 0) return {}
  // The delay is in microseconds, and also for a transaction that is alone.
  return { fsync: 'on', commit_delay: String(delayMs * 1_000), commit_siblings: '0' }
}

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}
