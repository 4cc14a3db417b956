/**
 * A service of three processes, made of all the layers, with one command:
 *
 *   DATABASE_URL=postgres://… npx tsx examples/service/main.ts
 *   curl localhost:<port>/some-key    # the owner of the key answers, whichever process you ask
 *   curl localhost:<port>/health      # may this process be trusted with work?
 *
 * Kill one with kill -9: its keys move, and if it led, another leads about a second later. Ctrl-C stops all of them,
 * one after another, and no request is lost.
 */
import { type ChildProcess, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { migrate } from 'pg-membership'

const connection = process.env.DATABASE_URL ?? 'postgres://localhost/postgres'
await migrate({ connection })
const client = new pg.Client({ connectionString: connection })
await client.connect()
await client.query('create table if not exists service_jobs (n integer primary key, leader text not null)')
await client.end()

const env = { ...process.env, DATABASE_URL: connection, PORT: '0' }
const one = fileURLToPath(new URL('one-process.ts', import.meta.url))
const processes: ChildProcess[] = []
for (let n = 0; n < 3; n++) processes.push(fork(one, { env }))

// As `npx pg-membership web` would.
const command = fileURLToPath(new URL('dist/cli/main.js', import.meta.resolve('pg-membership/package.json')))
const page = spawn(process.execPath, [command, 'web', '--port', '0'], {
  env,
  stdio: ['ignore', 'pipe', 'inherit'],
})
page.stdout.setEncoding('utf8').on('data', (text: string) => {
  const address = /http:\S+/.exec(text)?.[0]
  if (address !== undefined) console.log(`${address} shows who is there`)
})

async function stop(): Promise<void> {
  page.kill('SIGTERM')
  for (const child of processes) {
    if (child.exitCode !== null || child.signalCode !== null) continue
    child.kill('SIGTERM')
    await once(child, 'exit')
  }
}
for (const name of ['SIGINT', 'SIGTERM']) process.once(name, () => void stop())
