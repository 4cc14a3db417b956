/** Who did it, and stays as bars over time. */
import { randomUUID } from 'node:crypto'
import { stripVTControlCharacters } from 'node:util'
import { beforeAll, describe, expect, test } from 'vitest'
import { pgMembership } from './support/command-line.js'
import { adminClient, freshSchema } from './support/database.js'

const ada = randomUUID()
const bob = randomUUID()
let schema: string

/** Ada is here since three hours, Bob was here from two hours ago to one hour ago. */
beforeAll(async () => {
  schema = await freshSchema()
  await using admin = await adminClient()
  await admin.query(`set search_path = ${schema}`)
  const register = `select from register('chat', array[$1::uuid], '{x}', '{0}', '15s', null, 's', 0)`
  await admin.query(register, [ada])
  await admin.query(register, [bob])
  await admin.query(`select deregister('chat', array[$1::uuid], '{2}')`, [bob])
  await admin.query(`alter table members disable trigger user`)
  await admin.query(`update members set registered_at = registered_at - interval '3 h'`)
  await admin.query(
    `update events set registered_at = registered_at - interval '2 h',
      at = at - case kind when 'left' then interval '1 h' else interval '2 h' end where member = $1`,
    [bob],
  )
  await admin.query(
    `update events set registered_at = registered_at - interval '3 h', at = at - interval '3 h' where member = $1`,
    [ada],
  )
})

const json = (stdout: string) => JSON.parse(stdout) as Record<string, unknown>[]

describe('contract: history', () => {
  test('--json has numbers and ISO times', async () => {
    expect(
      json((await pgMembership(['history', 'chat', '--json', '--limit', '1', '--schema', schema])).stdout),
    ).toEqual([
      {
        cluster: 'chat',
        revision: 3,
        at: expect.stringMatching(/T.*Z$/) as string,
        kind: 'left',
        reason: 'deregistered',
        member: bob,
        token: 2,
        data: null,
        byRole: 'postgres',
        note: null,
      },
    ])
  })

  test('--timeline draws the stays as bars that fit the terminal, a line for each member', async () => {
    const terminal = { columns: 70, rows: 24 }
    const draw = (...args: string[]) =>
      pgMembership(['history', 'chat', '--timeline', ...args, '--schema', schema], {}, { terminal })
    const shown = stripVTControlCharacters((await draw('--since', '4h')).stdout)
    const [head, axis, adas = '', bobs = '', legend] = shown.trimEnd().split('\n')
    expect(Math.max(...shown.split('\n').map((line) => line.length))).toBeLessThanOrEqual(70)
    expect(head).toMatch(/^\d{4}-.*Z to \d{4}-.*Z, 4m 22s each cell$/)
    expect(axis).toMatch(/^ {15}\|\d\d:\d\d:\d\d/)
    // 55 cells for four hours: Ada came after the first, and is here; Bob was here in the third, and left by himself.
    const cells = (bar: string) => [bar.search(/\S/), bar.length]
    expect(adas.slice(0, 13)).toBe(`…${ada.slice(-12)}`)
    expect(adas.slice(15)).toMatch(/^ +█+$/)
    expect(cells(adas.slice(15))).toEqual([13, 55])
    expect(bobs.slice(15)).toMatch(/^ +█+d$/)
    expect(cells(bobs.slice(15))).toEqual([27, 42])
    expect(legend).toMatch(/d deregistered/)
    const coloured = (await draw('--since', '4h')).stdout
    expect(coloured).toContain('\u001b[32m█\u001b[39m')
    expect(coloured).toContain('\u001b[33md\u001b[39m')
    expect((await draw('--since', '30m')).stdout).not.toContain(bob.slice(-12))
    for (const since of [['--since', '1s'], []]) {
      const { code, stderr } = await draw(...since, '--until', '2d')
      expect(code).toBe(2)
      expect(stderr).toContain('is after --until')
    }
    expect(json((await draw('--json')).stdout)).toMatchObject([{ member: ada }, { member: bob }])
  })

  test('--timeline draws no bar beyond --until, says what is left out, and is 100 wide without a terminal', async () => {
    const shown = (
      await pgMembership([
        'history',
        '--timeline',
        '--since=4h',
        '--until=2h',
        '--limit=1',
        '--schema',
        schema,
      ])
    ).stdout
    const [, , bar = '', , note] = shown.trimEnd().split('\n')
    expect(bar).toHaveLength(100)
    expect(bar.endsWith('█')).toBe(true)
    expect(note).toBe('Only the newest 1 stays: --limit N shows more.')
  })

  test('shows who did what is not done by processes, and why', async () => {
    const elsewhere = await freshSchema()
    await using admin = await adminClient()
    await admin.query(`set search_path = ${elsewhere}`)
    await admin.query(
      `select register('chat', array[$1::uuid], '{x}', '{0}', '15s', null, 's', 0), evict('chat', $1, e'disk\u001bfull')`,
      [ada],
    )
    for (const flag of ['--limit=9', '--stays']) {
      const { stdout } = await pgMembership(['history', 'chat', flag, '--schema', elsewhere])
      const [head, row] = stdout.split('\n').map((line) => line.split(/ {2,}/))
      expect(row?.[head?.indexOf('BY') ?? -1]).toBe('postgres: disk\\u001bfull')
      const exact = await pgMembership(['history', 'chat', flag, '--json', '--schema', elsewhere])
      expect(json(exact.stdout)[0]).toMatchObject({ byRole: 'postgres', note: 'disk\u001bfull' })
    }
  })
})
