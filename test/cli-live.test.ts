/** The commands that go on: members --watch, and watch. They run as a reader. */
import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { follow as followCommand, type Following, MAIN, pgMembership } from './support/command-line.js'
import { type AdminClient, adminClient, uniqueName } from './support/database.js'
import { type Roles, startRoles } from './support/roles.js'
import { startProxy } from './support/tcp-proxy.js'
import { until } from './support/until.js'

let admin: AdminClient
let roles: Roles

beforeAll(async () => {
  roles = await startRoles()
  admin = await adminClient()
  await admin.query(`set search_path = ${roles.schema}`)
})
afterAll(() => admin.end())

const NASTY = 'a\u001b[2J\u009b31m'
const TERMINAL = { columns: 100, rows: 8 }
/** What terminals obey. */
const STEERING = /[\u001b\u009b]/

function follow(args: readonly string[], env: NodeJS.ProcessEnv = {}, more: Following = {}) {
  return followCommand(
    [...args, '--schema', roles.schema],
    { DATABASE_URL: roles.urlOf('reader'), ...env },
    more,
  )
}

async function joined(cluster: string, data = 'x'): Promise<string> {
  const id = randomUUID()
  const register = `select from register($1, array[$2::uuid], array[convert_to($3, 'UTF8')], '{0}', '15s', null, 's', 0)`
  await admin.query(register, [cluster, id, data])
  return id
}

describe('contract: members --watch', () => {
  test('repaints a terminal in place, and prints elsewhere at each change only', async () => {
    const name = uniqueName()
    const ada = await joined(name, NASTY)
    const members = ['members', name, '--watch']
    const live = follow(members, {}, { terminal: TERMINAL })
    const dumb = follow(members, { TERM: 'dumb' }, { terminal: TERMINAL })
    const pipe = follow(members)
    const json = follow([...members, '--json'])
    const frames = () => live.written.stdout.split('\u001b[H').slice(1)
    const others = () => [dumb, pipe].map(({ written }) => written.stdout)
    const last = () => frames().at(-1) ?? ''
    const begun = () => [...others(), json.written.stdout].every((text) => text.includes(ada))
    await until(() => frames().length >= 3 && begun(), { message: 'three frames' })
    expect(last()).toContain(ada)
    for (const text of others()) expect(text.split(ada)).toHaveLength(2)
    expect(json.lines()).toHaveLength(1)

    const more = [
      await joined(name),
      await joined(name),
      await joined(name),
      await joined(name),
      await joined(name),
      await joined(name),
    ]
    const newest = () => (JSON.parse(json.lines().at(-1) ?? '[]') as unknown[]).length
    await until(() => last().includes('more lines') && newest() === 7, { message: 'the changes' })
    await until(() => others().every((text) => more.every((id) => text.includes(id))), { message: 'it, too' })
    // Eight lines: the title, the head, five of the seven members, and how many more there are.
    expect(last().split('\r\n')).toHaveLength(TERMINAL.rows)
    expect(last().split('\r\n').at(-1)).toMatch(/^\u001b\[J… and 2 more lines$/)
    expect(JSON.parse(json.lines().at(-1) ?? '')).toMatchObject([
      { id: ada, data: NASTY },
      ...more.map((id) => ({ id })),
    ])

    for (const { code, stderr } of [await live.end(), await dumb.end(), await pipe.end(), await json.end()])
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    for (const text of [...others(), json.written.stdout]) expect(text).not.toMatch(STEERING)
    // The cursor and what was there before are given back; the last table stays.
    const [opened, ...painted] = live.written.stdout.split('\u001b[H')
    expect(opened).toBe('\u001b[?1049h\u001b[?25l\u001b[?7l')
    const [, afterwards = ''] = (painted.at(-1) ?? '').split('\u001b[?7h\u001b[?25h\u001b[?1049l')
    expect(afterwards).toContain(more.at(-1))
    expect(afterwards).not.toMatch(STEERING)
    for (const frame of frames())
      expect(frame.replaceAll(/\u001b\[(K|J|\?\d+[lh])/g, '')).not.toMatch(STEERING)
  })

  test('shows an outage in place, and its end', async () => {
    const name = uniqueName()
    await joined(name)
    await using proxy = await startProxy(roles.urlOf('reader'))
    const env = { DATABASE_URL: proxy.url(roles.urlOf('reader')) }
    const live = follow(['members', name, '--watch'], env, { terminal: TERMINAL })
    const last = () => live.written.stdout.split('\u001b[H').at(-1) ?? ''
    await until(() => last().includes('1 members'), { message: 'the first frame' })
    await proxy.cut()
    await until(() => last().includes('cannot reach the database'), { message: 'the outage' })
    await proxy.restore()
    await until(() => last().includes('1 members'), { message: 'its end' })
    expect(await live.end()).toMatchObject({ code: 0, stderr: '' })
  })
})

describe('contract: watch', () => {
  test('follows all clusters, new ones too, coloured for people and as JSON for programs', async () => {
    const [name, other] = [uniqueName(), uniqueName('new\u009b')]
    await joined(name, 'before')
    const swept = async () =>
      (await admin.query('select * from sweeps where cluster = $1', [name])).rows as unknown[]
    const before = await swept()
    expect(before).toHaveLength(1)
    const all = {
      terminal: follow(['watch'], {}, { terminal: TERMINAL }),
      plain: follow(['watch'], { NO_COLOR: '1' }, { terminal: TERMINAL }),
      dumb: follow(['watch'], { TERM: 'dumb' }, { terminal: TERMINAL }),
      forced: follow(['watch', name], { FORCE_COLOR: '1', NO_COLOR: '1' }),
      pipe: follow(['watch']),
    }
    const watchers = Object.values(all)
    // It begins with what happens after it has begun: until all show something, something happens.
    await until(async () => (await joined(name), watchers.every(({ lines }) => lines().length > 0)), {
      message: 'a change',
    })
    const ada = await joined(other, NASTY)
    await admin.query(`update members set data = 'y' where id = $1`, [ada])
    const bob = await joined(name, NASTY)
    await admin.query(`select evict($1, $2, 'disk\u001bfull')`, [name, bob])
    const shown = (text: string): string[] =>
      text.split('\n').filter((line) => line.includes(ada) || line.includes(bob))
    await until(
      () => watchers.every((one) => shown(one.written.stdout).length === (one === all.forced ? 2 : 4)),
      { message: 'the last change' },
    )
    for (const { end } of watchers) expect((await end()).code).toBe(0)
    const changes = (id: string) =>
      shown(all.pipe.written.stdout)
        .map((line) => JSON.parse(line) as { member: { id: string } })
        .filter(({ member }) => member.id === id)
    expect(changes(ada)).toMatchObject([
      { cluster: other, kind: 'joined', reason: 'registered', member: { id: ada, data: NASTY }, note: null },
      { cluster: other, kind: 'updated', reason: 'data', member: { id: ada, data: 'y' } },
    ])
    const evicted = { byRole: 'postgres', note: 'disk\u001bfull' }
    expect(changes(bob)).toMatchObject([
      { cluster: name, kind: 'joined', member: { id: bob, data: NASTY } },
      { cluster: name, kind: 'left', reason: 'removed', member: { id: bob, data: NASTY }, ...evicted },
    ])
    expect(all.pipe.written.stdout).not.toMatch(STEERING)
    expect(all.pipe.written.stderr).toBe('')

    expect(all.terminal.written.stderr).toMatch(
      /watching all clusters \(\d+ now\) from now on, Ctrl-C to end\n$/,
    )
    const [joins = '', leaves = ''] = shown(all.terminal.written.stdout).filter((line) => line.includes(bob))
    expect(joins).toContain('\u001b[32mjoined            \u001b[39m')
    expect(joins).toContain('a\\u001b[2J\\u009b31m')
    expect(leaves).toMatch(
      /\u001b\[31mleft: removed {5}\u001b\[39m {2}[-\w]+ {2}\d+ {2}by postgres: disk\\u001bfull {2}a\\u001b/,
    )
    expect(all.terminal.written.stdout.replaceAll(/\u001b\[3[1-39]m/g, '')).not.toMatch(STEERING)
    for (const { written } of [all.plain, all.dumb]) {
      expect(shown(written.stdout)).toHaveLength(4)
      expect(written.stdout).not.toMatch(STEERING)
    }
    expect(shown(all.forced.written.stdout)).toHaveLength(2)
    expect(all.forced.written.stdout).toContain('\u001b[31mleft: removed')
    // It only reads: nobody has swept.
    expect(await swept()).toEqual(before)
  })

  test('goes on from a cursor and through an outage, each change once and in order', async () => {
    const name = uniqueName()
    await using proxy = await startProxy(roles.urlOf('reader'))
    const env = { DATABASE_URL: proxy.url(roles.urlOf('reader')) }
    // More than two pages.
    await admin.query(
      `select from register($1, array(select gen_random_uuid() from generate_series(1, 120)),
        array_fill('x'::bytea, array[120]), array_fill(0::bigint, array[120]), '15s', null, 's', 0)`,
      [name],
    )
    const watching = follow(['watch', name, '--since', '0.'], env)
    const revisions = () =>
      watching.lines().map((line) => (JSON.parse(line) as { revision: number }).revision)
    await until(() => revisions().length === 120, { message: 'what was before' })
    await admin.query(`select pg_terminate_backend(pid) from pg_stat_activity where usename = $1`, [
      roles.nameOf.reader,
    ])
    await joined(name)
    await until(() => revisions().length === 121, { message: 'a change after a lost connection' })
    await proxy.cut()
    await until(() => watching.written.stderr.includes('trying again'), { message: 'the outage' })
    await joined(name)
    await proxy.restore()
    await until(() => revisions().length === 122, { message: 'what happened meanwhile' })
    expect(revisions()).toEqual(Array.from({ length: 122 }, (_, n) => n + 1))
    const { code, stderr } = await watching.end()
    expect(code).toBe(0)
    expect(stderr).toMatch(
      /^pg-membership: cannot reach the database: .*: trying again\n.*is reached again\n$/,
    )
  })

  test('goes on if the connection is lost in its first look, when it may have printed something', async () => {
    const name = uniqueName()
    await joined(name)
    await using proxy = await startProxy(roles.urlOf('reader'))
    const lost = proxy.cutOnce({
      direction: 'toServer',
      afterBytes: 0,
      // The last question of the first look: is there such a cluster?
      when: ({ sent }) => sent.includes('name limit 20'),
    })
    const watching = follow(['watch', name, '--since', '0.'], {
      DATABASE_URL: proxy.url(roles.urlOf('reader')),
    })
    await lost
    await joined(name)
    await until(() => watching.lines().length === 2, { message: 'what came after it' })
    const { code, stderr } = await watching.end()
    expect({ code, stderr }).toEqual({
      code: 0,
      stderr: expect.stringMatching(/cannot reach .*: trying again\n.* is reached again\n$/) as string,
    })
  })

  test('says what to do where the log does not go on from the cursor: exit code 1', async () => {
    const name = uniqueName()
    await joined(name)
    await joined(name)
    const watch = (since: string) =>
      pgMembership(['watch', name, '--since', since, '--schema', roles.schema], {
        DATABASE_URL: roles.urlOf('reader'),
      })
    expect(await watch(`1.${randomUUID()}`)).toMatchObject({
      code: 1,
      stdout: '',
      stderr: expect.stringMatching(
        /history of cluster .* is not the one .* pg-membership members .* without --since\n$/,
      ) as string,
    })
    await admin.query('delete from events where cluster = $1 and revision = 1', [name])
    expect(await watch('0.')).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        /no longer has all that follows the cursor: .* watch again without --since\n$/,
      ) as string,
    })
  })

  test('forgets a cluster that is dropped, and follows it when it begins again', async () => {
    const name = uniqueName()
    const watching = follow(['watch'])
    await until(async () => (await joined(name), watching.lines().length > 0), { message: 'it has begun' })
    await admin.query('delete from members where cluster = $1', [name])
    await until(() => watching.written.stdout.includes('"left"'), { message: 'all have left' })
    await admin.query('select drop_cluster($1)', [name])
    const again = uniqueName()
    await joined(again)
    await until(() => watching.written.stdout.includes(again), { message: 'a look without it' })
    const id = await joined(name)
    await until(() => watching.written.stdout.includes(id), { message: 'its new beginning' })
    expect(await watching.end()).toMatchObject({ code: 0, stderr: '' })
  })

  test('waits for a cluster that is not there yet, and ends at Ctrl-C with exit code 0', async () => {
    const name = uniqueName()
    const child = spawn(process.execPath, [MAIN, 'watch', name, '--schema', roles.schema], {
      env: { ...process.env, DATABASE_URL: roles.urlOf('reader') },
    })
    onTestFinished(() => void child.kill('SIGKILL'))
    let [stdout, stderr] = ['', '']
    child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()))
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
    await until(() => stderr.includes(`There has never been a cluster "${name}"`), { message: 'a word' })
    const id = await joined(name)
    await until(() => stdout.includes(id), { message: 'its first change' })
    const exited = once(child, 'exit')
    child.kill('SIGINT')
    expect(await exited).toEqual([0, null])
  })
})
