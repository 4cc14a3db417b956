/** What one process pays: reading its cache, telling its watchers, starting. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { hrtime } from 'node:process'
import { PostgresCluster } from 'pg-membership'
import { MemoryCluster } from 'pg-membership/memory'
import { summary } from '../lib/stats.js'

const ROOT = join(import.meta.dirname, '../..')

/** Microseconds of one getMembers() from the cache. */
export async function cached(postgres: string): Promise<number> {
  const cluster = new PostgresCluster({ connection: postgres, name: 'cached' })
  await cluster.getMembers()
  const calls = 200_000
  const times: number[] = []
  for (let round = 0; round < 5; round++) {
    const started = hrtime.bigint()
    for (let n = 0; n < calls; n++) await cluster.getMembers()
    times.push(Number(hrtime.bigint() - started) / 1_000 / calls)
  }
  await cluster.close()
  return summary(times).median
}

export interface FanOut {
  readonly watchers: number
  /** Milliseconds from a change until all watchers of the process have it. */
  readonly ms: number
}

export async function fanOut(): Promise<FanOut[]> {
  const results: FanOut[] = []
  for (const watchers of [1, 10, 100, 1_000]) {
    const cluster = new MemoryCluster({ name: 'fan-out' })
    const membership = cluster.createMembership({ data: '0' })
    await membership.register()
    let [left, finish] = [0, (): void => undefined]
    for (let n = 0; n < watchers; n++) {
      void (async () => {
        for await (const members of cluster.watchMembers()) {
          left -= members.length > 0 ? 1 : 0
          if (left === 0) finish()
        }
      })()
    }
    const round = async (data: string): Promise<number> => {
      const all = new Promise<void>((resolve) => (finish = resolve))
      left = watchers
      const started = hrtime.bigint()
      void membership.setData(data)
      await all
      return Number(hrtime.bigint() - started) / 1e6
    }
    left = watchers
    await new Promise<void>((resolve) => (finish = resolve))
    const times: number[] = []
    for (let n = 0; n < 200; n++) times.push(await round(`round ${n}`))
    results.push({ watchers, ms: summary(times.slice(50)).median })
    await cluster.close()
  }
  return results
}

export interface Start {
  /** Milliseconds of `import 'pg-membership'`, in a new process. */
  readonly importMs: number
  /** Bytes that `npm install pg-membership` puts on the disk, and how many packages. */
  readonly installedBytes: number
  readonly packages: number
}

export function start(): Start {
  const script = `const t = performance.now(); await import('pg-membership'); console.log(performance.now() - t)`
  const times = Array.from({ length: 15 }, () => {
    const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      cwd: ROOT,
      encoding: 'utf8',
    })
    return Number(stdout)
  })
  const directory = mkdtempSync(join(tmpdir(), 'pg-membership-size-'))
  try {
    const npm = (...args: string[]) => spawnSync('npm', args, { cwd: directory, encoding: 'utf8' })
    const packed = spawnSync(
      'npm',
      ['pack', '--silent', '--ignore-scripts', '--pack-destination', directory],
      {
        cwd: ROOT,
        encoding: 'utf8',
      },
    )
    writeFileSync(join(directory, 'package.json'), '{ "private": true }')
    const { status, stderr } = npm('install', '--silent', '--ignore-scripts', packed.stdout.trim())
    if (status !== 0) throw new Error(`npm install: ${stderr}`)
    const modules = join(directory, 'node_modules')
    const names = readdirSync(modules).filter((name) => !name.startsWith('.'))
    return { importMs: summary(times).median, installedBytes: sizeOf(modules), packages: names.length }
  } finally {
    rmSync(directory, { recursive: true })
  }
}

function sizeOf(path: string): number {
  const stats = statSync(path)
  if (!stats.isDirectory()) return stats.size
  return readdirSync(path).reduce((sum, name) => sum + sizeOf(join(path, name)), 0)
}
