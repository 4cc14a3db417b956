import { execFile } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { expect, test, vi } from 'vitest'
import { adminClient, databaseUrl } from '../support/database.js'
import { Program } from './program.js'

// Several processes start, each of which compiles its TypeScript first.
vi.setConfig({ testTimeout: 90_000 })

function startDemo(url = databaseUrl()): Program {
  return new Program('examples/demo/main.ts', { DATABASE_URL: url })
}

interface Process {
  readonly pid: number
  readonly command: string
}

async function processes(): Promise<Process[]> {
  if (process.platform !== 'linux') {
    const { stdout } = await promisify(execFile)('ps', ['-A', '-o', 'pid=,args='])
    const lines = stdout.split('\n').map((line) => line.trim())
    return lines.map((line) => ({ pid: parseInt(line), command: line }))
  }
  const pids = (await readdir('/proc')).map(Number).filter((pid) => pid > 0)
  return Promise.all(
    pids.map(async (pid) => ({
      pid,
      command: await readFile(`/proc/${String(pid)}/cmdline`, 'utf8').catch(() => ''),
    })),
  )
}

/** Schemas and processes that name this demo's schema. */
async function leftBehind(schema: string): Promise<string[]> {
  await using admin = await adminClient()
  const sql = 'select nspname from pg_namespace where nspname = $1'
  const { rows } = await admin.query<{ nspname: string }>(sql, [schema])
  const commands = (await processes()).map(({ command }) => command)
  return [...rows.map(({ nspname }) => nspname), ...commands.filter((command) => command.includes(schema))]
}

async function schemaOf(demo: Program): Promise<string> {
  const [schema] = await demo.prints(/pgmembership_demo_\w+/)
  return schema
}

test('tells the whole story, ends with 0 and leaves nothing behind', async () => {
  await using demo = startDemo()
  const schema = await schemaOf(demo)
  expect(await demo.exited()).toBe(0)

  const story = [
    /Four processes register/,
    /^ +ada +★ #1 ready +#2 ready +#3 ready +#4 ready +· +revision 4$/,
    /^ +eve +★ #1 ready +#2 ready +#3 ready +#4 ready +· +revision 4$/,
    /eve joins/,
    /^ +ben +★ #1 ready +#2 ready +#3 ready +#4 ready +#5 ready +revision 5$/,
    /in every snapshot after [\d.]+ m?s/,
    /ben changes his data/,
    /^ +dora +★ #1 ready +#2 busy +#3 ready +#4 ready +#5 ready +revision 6$/,
    /cleo leaves politely/,
    /^ +cleo +left$/,
    /^ +eve +★ #1 ready +#2 busy +· +#4 ready +#5 ready +revision 7$/,
    /gone from every snapshot after [\d.]+ m?s; her process ended with code 0/,
    /ada, the leader, is killed/,
    /^ +ada +killed$/,
    /^ +ben +· +★ #2 busy +· +#4 ready +#5 ready +revision 8$/,
    /gone from every snapshot after [\d.]+ m?s: 'crashed'/,
    /ben, the new leader, is frozen/,
    /^ +ben +· +★ #2 busy +· +#4 ready +#5 ready +frozen$/,
    /^ +dora +· +· +· +★ #4 ready +#5 ready +revision 9$/,
    /gone from the other snapshots after [\d.]+ m?s: 'expired'/,
    /ben is resumed/,
    /^ +ben +· +#10 busy +· +★ #4 ready +#5 ready +revision 10$/,
    /his lease ended: MembershipLostError '(unreachable|expired)'/,
    /all see him again: the same id, token #2 became #10/,
    /The same story, in plain SQL/,
    /from stays/,
    /^ +ada +│ \w+ +│ 1 +│ .* │ crashed$/,
    /^ +ben +│ \w+ +│ 2 +│ .* │ expired$/,
    /^ +cleo +│ \w+ +│ 3 +│ .* │ deregistered$/,
    /^ +ben +│ \w+ +│ 10 +│ .* │ \(still here\)$/,
    /from changes/,
    /│ updated │ data +│/,
    /^ +10 +│ .* │ joined +│ registered +│ \w+ +│ 10 +│ busy$/,
    /That took [\d.]+ s/,
  ]
  const lines = demo.output.split('\n')
  let from = 0
  for (const line of story) {
    const at = lines.findIndex((text, n) => n >= from && line.test(text))
    expect(at, `${String(line)} after line ${String(from)} of\n${demo.output}`).toBeGreaterThanOrEqual(0)
    from = at
  }
  expect(demo.output, 'no colours in a pipe').not.toContain('\u001b')
  expect(await leftBehind(schema)).toEqual([])
})

test('leaves nothing behind when it is interrupted, not even a frozen process', async () => {
  await using demo = startDemo()
  const schema = await schemaOf(demo)
  await demo.prints(/no heartbeat comes/)
  demo.signal('SIGINT')
  expect(await demo.exited()).toBe(1)
  expect(demo.output).toContain('did not finish: interrupted by SIGINT')
  expect(await leftBehind(schema)).toEqual([])
})

test('leaves nothing behind when a step fails, and says so', async () => {
  await using demo = startDemo()
  const schema = await schemaOf(demo)
  await demo.prints(/say goodbye/)
  const eve = (await processes()).find(({ command }) => command.includes(schema) && command.includes('eve'))
  process.kill(eve?.pid ?? NaN, 'SIGKILL')
  expect(await demo.exited()).toBe(1)
  expect(demo.output).toContain('did not finish: eve ended unexpectedly, with SIGKILL')
  expect(await leftBehind(schema)).toEqual([])
})

test('says why when there is no database', async () => {
  await using demo = startDemo('postgres://nobody@127.0.0.1:1/none')
  expect(await demo.exited()).toBe(1)
  expect(demo.output).toContain('did not finish: connect ECONNREFUSED 127.0.0.1:1')
})
