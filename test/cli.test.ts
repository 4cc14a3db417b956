import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { text } from 'node:stream/consumers'
import { migrationSql } from 'pg-membership'
import { beforeAll, describe, expect, test } from 'vitest'
import { MAIN, pgMembership, pgMembershipProcess } from './support/command-line.js'
import { adminClient, databaseUrl, freshSchema, newSchemaName } from './support/database.js'

const ada = randomUUID()
const bob = randomUUID()
const DATA_OF_BOB = 'http://10.0.0.2:8080'
let schema: string

/** Ada is here since three hours, silent for 75 s; Bob was here from two hours ago to one hour ago. */
beforeAll(async () => {
  schema = await freshSchema()
  await using admin = await adminClient()
  await admin.query(`set search_path = ${schema}`)
  const register = `select token from register('chat', array[$1::uuid], array[convert_to($2, 'UTF8')], '{0}', '15s', null, 's', 0)`
  await admin.query(register, [ada, 'wörld 💥\x1b[31m'])
  await admin.query(register, [bob, 'http://10.0.0.1:8080'])
  await admin.query(`update members set data = convert_to($1, 'UTF8') where id = $2`, [DATA_OF_BOB, bob])
  await admin.query(`select deregister('chat', array[$1::uuid], '{2}')`, [bob])
  await admin.query(register.replace('chat', 'other'), [randomUUID(), 'x'.repeat(200)])
  await admin.query('alter table members disable trigger user')
  await admin.query(
    `update members set heartbeat_at = heartbeat_at - interval '75 s',
    registered_at = registered_at - interval '3 h' where id = $1`,
    [ada],
  )
  await admin.query('alter table members enable trigger user')
  await admin.query(
    `update events set registered_at = registered_at - interval '3 h', at = at - interval '3 h'
    where cluster = 'chat' and member = $1`,
    [ada],
  )
  await admin.query(
    `update events set registered_at = registered_at - interval '2 h',
    at = at - case kind when 'joined' then interval '2 h' when 'updated' then interval '90 min' else interval '1 h' end
    where cluster = 'chat' and member = $1`,
    [bob],
  )
})

function run(...args: string[]) {
  return pgMembership([...args, '--schema', schema])
}

/** Lines of a table, cells by two spaces or more. */
function cells(stdout: string): string[][] {
  return stdout
    .trimEnd()
    .split('\n')
    .map((line) => line.split(/ {2,}/))
}

const json = (stdout: string) => JSON.parse(stdout) as Record<string, unknown>[]

describe('contract: help and exit codes', () => {
  test('--help lists the commands and the exit codes, and exits 0', async () => {
    const { code, stdout, stderr } = await pgMembershipProcess(['--help'])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    for (const word of ['migrate', 'sql', 'members', 'history', 'web', 'DATABASE_URL', 'Exit codes'])
      expect(stdout).toContain(word)
  })

  test.each(
    'migrate sql members history watch flapping doctor web evict allow trim drop uninstall'.split(' '),
  )('%s --help tells its options without a database', async (command) => {
    const { code, stdout } = await pgMembership([command, '--help'], { DATABASE_URL: undefined })
    expect(code).toBe(0)
    expect(stdout).toContain(`Usage: pg-membership ${command}`)
    expect(stdout).toContain('--schema')
  })

  test('--version prints a version', async () => {
    expect((await pgMembership(['--version'])).stdout).toMatch(/^\d+\.\d+\.\d+/)
  })

  test.each([
    [[], 'no command was given'],
    [['nonsense'], 'no command "nonsense"'],
    [['constructor'], 'no command "constructor"'],
    [['members', '--nonsense'], '--nonsense'],
    [['members', 'a', 'b'], 'unexpected argument "b"'],
    [['members', '--at', 'yesterday'], '--at must be'],
    [['members', '--at'], '--at'],
    [['history', '--limit', 'many'], '--limit must be'],
    [['history', '--limit', '-1'], '--limit'],
    [['history', '--member', 'bob'], '--member must be'],
    [['history', '--since', '5 parsecs'], '--since must be'],
    [['history', '--until', 'then'], '--until must be'],
    [['history', '--stays', '--timeline'], 'leave --stays out'],
    [['members', '--watch', '--at', '1h'], '--at cannot be used with --watch'],
    [['watch', '--since', '0.'], 'give its name'],
    [['uninstall'], 'give --yes'],
    [['migrate', 'now'], 'unexpected argument'],
    [['migrate', '--schema', 'pg_mine'], 'schema'],
    [['migrate', '--schema', ''], '--schema'],
    [['migrate', '--connection', 'http://example.org'], 'connection'],
    [['web', '--port', 'any'], '--port must be'],
    [['web', '--port', '65536'], '--port must be'],
    [['web', '--json'], '--json'],
    [['sql', '--from', '7'], 'from'],
    [['sql', '--json'], '--json'],
    [['sql', '--grants', 'god=me'], '--grants takes'],
    [['sql', '--grants', 'member=me', '--down'], '--grants cannot be used with --down'],
  ])('%j is misuse: one line on stderr with a hint, and exit code 2', async (args, words) => {
    const { code, stdout, stderr } = await pgMembership(args)
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toContain(words)
    expect(stderr).toMatch(/^pg-membership: .*--help\)\n$/)
  })

  test('no database given is misuse, and says what to give', async () => {
    const { code, stderr } = await pgMembershipProcess(['members'], { DATABASE_URL: undefined })
    expect(code).toBe(2)
    expect(stderr).toContain('--connection URL, or set DATABASE_URL')
  })

  test.each(['migrate', 'members', 'history', 'web'])(
    '%s on a database out of reach: one line, a hint, exit code 1',
    async (command) => {
      const { code, stdout, stderr } = await pgMembership([
        command,
        '--connection',
        'postgres://me@localhost:1/db',
      ])
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
      expect(stderr).toMatch(/^pg-membership: cannot reach the database: .*ECONNREFUSED.*DATABASE_URL\)\n$/)
    },
  )

  test('a database that does not exist: one line, exit code 1', async () => {
    const url = new URL(databaseUrl())
    url.pathname = '/no_such_database'
    const { code, stderr } = await pgMembership(['members', '--connection', url.href])
    expect(code).toBe(1)
    expect(stderr).toMatch(/^pg-membership: .*"no_such_database" does not exist\n$/)
  })

  test.each(['members', 'history', 'web'])(
    '%s in a schema that is missing says which command to run, exit code 1',
    async (command) => {
      const { code, stderr } = await pgMembership([command, '--schema', 'no_such_schema'])
      expect(code).toBe(1)
      expect(stderr).toMatch(/^pg-membership: .*npx pg-membership migrate\n$/)
    },
  )

  test.each(['members', 'history'])(
    '%s into a pipe that closes early ends without a word',
    async (command) => {
      const child = spawn(process.execPath, [MAIN, command, '--schema', schema], {
        env: { ...process.env, DATABASE_URL: databaseUrl() },
      })
      child.stdout.destroy()
      const ended = new Promise((resolve) => child.once('exit', resolve))
      expect(await text(child.stderr)).toBe('')
      expect(await ended).toBe(0)
    },
  )

  test('| head -1 gets its line, and nobody complains', async () => {
    const shell = spawn('sh', ['-c', '"$0" "$1" sql | head -1', process.execPath, MAIN])
    expect(await text(shell.stdout)).toMatch(/^-- pg-membership: .*\n$/)
    expect(await text(shell.stderr)).toBe('')
  })
})

describe('contract: migrate', () => {
  test('creates the schema, and says when there was nothing to do', async () => {
    const name = newSchemaName()
    const first = await pgMembership(['migrate', '--schema', name])
    expect(first).toEqual({ code: 0, stdout: `Migrated schema "${name}": 0001_membership.\n`, stderr: '' })
    const second = await pgMembership(['migrate', '--schema', name])
    expect(second).toEqual({ code: 0, stdout: `Schema "${name}" is up to date.\n`, stderr: '' })
    const third = await pgMembership(['migrate', '--schema', name, '--json'])
    expect(JSON.parse(third.stdout)).toEqual({ schema: name, migrations: [] })
  })

  test('--connection wins over DATABASE_URL', async () => {
    const args = ['migrate', '--schema', schema, '--connection', databaseUrl()]
    expect(await pgMembership(args, { DATABASE_URL: 'postgres://me@localhost:1/db' })).toMatchObject({
      code: 0,
    })
  })

  test('refuses a schema of somebody else with exit code 1', async () => {
    const name = newSchemaName()
    await using admin = await adminClient()
    await admin.query(`create schema ${name} create table customers (id integer)`)
    const { code, stderr } = await pgMembership(['migrate', '--schema', name])
    expect(code).toBe(1)
    expect(stderr).toContain(`table ${name}.customers`)
  })
})

describe('contract: sql', () => {
  test('prints what migrationSql returns, with no database', async () => {
    const { stdout } = await pgMembership(['sql', '--schema', 'x y'], { DATABASE_URL: undefined })
    expect(stdout.trimEnd()).toBe(migrationSql({ schema: 'x y' }).trimEnd())
    const down = await pgMembership(['sql', '--down', '--from', '1', '--to', '0'])
    expect(down.stdout.trimEnd()).toBe(migrationSql({ direction: 'down' }).trimEnd())
    expect((await pgMembership(['sql', '--from', '1'])).stdout).not.toContain('create')
  })

  test('--grants prints the grants of each role, with names quoted', async () => {
    const { code, stdout } = await pgMembership([
      'sql',
      '--schema',
      'x"y',
      '--grants',
      'owner=o,member=a b',
      '--grants',
      'reader=r',
    ])
    expect(code).toBe(0)
    expect(stdout).toContain('create schema "x""y" authorization "o";')
    expect(stdout.match(/grant usage on schema "x""y" to "a b";/g)).toHaveLength(1)
    expect(stdout.match(/grant usage on schema "x""y" to "r";/g)).toHaveLength(1)
    expect(stdout.match(/"x""y".register\(/g)).toHaveLength(1)
    expect(stdout).not.toMatch(/:"(schema|role)";/)
  })
})

describe('contract: members', () => {
  test('shows one cluster, with ages that read well and data that cannot harm the terminal', async () => {
    const { code, stdout, stderr } = await run('members', 'chat')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const [head, row, ...rest] = cells(stdout)
    expect(head).toEqual(['ID', 'TOKEN', 'REGISTERED', 'HERE FOR', 'HEARTBEAT', 'TTL', 'HOST', 'PID', 'DATA'])
    expect(row).toEqual([
      ada,
      '1',
      expect.stringMatching(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ$/),
      expect.stringMatching(/^3h( \dm)?$/),
      expect.stringMatching(/^[1-5]m( \d+s)? ago OVERDUE$/),
      '15s',
      '?',
      '?',
      'wörld 💥\\u001b[31m',
    ])
    expect(rest).toEqual([])
  })

  test('shows all clusters with their names, and shortens data unless --wide', async () => {
    const short = await run('members')
    expect(short.stdout).toMatch(/^CLUSTER /)
    expect(short.stdout).toMatch(/\nother .* x{59}…\n$/)
    expect((await run('members', '--wide')).stdout).toMatch(/ x{200}\n$/)
  })

  test('--json is for programs: exact data, numbers, ISO times', async () => {
    const { stdout } = await run('members', 'chat', '--json')
    expect(json(stdout)).toEqual([
      {
        cluster: 'chat',
        id: ada,
        token: 1,
        data: 'wörld 💥\x1b[31m',
        session: null,
        host: null,
        pid: null,
        ttlMs: 15_000,
        isOverdue: true,
        registeredAt: expect.stringMatching(/T.*Z$/) as string,
        hereForMs: expect.any(Number) as number,
        silentForMs: expect.any(Number) as number,
      },
    ])
  })

  test('--at takes a duration or a time, and shows who was there with the data of then', async () => {
    const then = json((await run('members', 'chat', '--at', '100m', '--json')).stdout)
    expect(then).toMatchObject([{ id: ada }, { id: bob, token: 2, data: 'http://10.0.0.1:8080' }])
    const later = new Date(Date.now() - 80 * 60_000).toISOString()
    const table = cells((await run('members', '--at', later)).stdout)
    expect(table).toHaveLength(3)
    expect(table[2]?.slice(0, 3)).toEqual(['chat', bob, '2'])
    expect(table[2]?.at(-1)).toBe(DATA_OF_BOB)
    expect(json((await run('members', 'chat', '--at', '4h', '--json')).stdout)).toEqual([])
    expect(json((await run('members', 'chat', '--at', '2020-01-01', '--json')).stdout)).toEqual([])
  })

  test('shows the host and the pid of the process', async () => {
    const elsewhere = await freshSchema()
    await using admin = await adminClient()
    await admin.query(`set search_path = ${elsewhere}`)
    const session = 'pg-membership db host 4711 0123456789ab'
    await admin.query(`set application_name = '${session}'`)
    await admin.query(
      `select register('chat', array[gen_random_uuid()], '{x}', '{0}', '15s', null, $1, pg_backend_pid())`,
      [session],
    )
    const { stdout } = await pgMembership(['members', '--json', '--schema', elsewhere])
    expect(json(stdout)).toMatchObject([{ session, host: 'db host', pid: 4711, isOverdue: false }])
  })

  test('a cluster that never was is named, with those that are', async () => {
    const { code, stdout } = await run('members', 'chatt')
    expect(code).toBe(0)
    expect(stdout).toBe('There has never been a cluster "chatt". There are: chat, other\n')
    expect((await run('members', 'chatt', '--json')).stdout).toBe('[]\n')
  })
})

describe('contract: history', () => {
  test('shows the changes, newest first, and why members left', async () => {
    const rows = cells((await run('history', 'chat')).stdout)
    expect(rows[0]).toEqual(['TIME', 'REVISION', 'CHANGE', 'MEMBER', 'TOKEN', 'DATA'])
    expect(rows.slice(1).map((row) => [row[2], row[3]])).toEqual([
      ['left: deregistered', bob],
      ['updated', bob],
      ['joined', bob],
      ['joined', ada],
    ])
  })

  test('--limit, --since and --member narrow it down', async () => {
    const kinds = async (...args: string[]) =>
      json((await run('history', ...args, '--json')).stdout).map(({ kind }) => kind)
    expect(await kinds('chat', '--limit', '1')).toEqual(['left'])
    expect(await kinds('chat', '--since', '100m')).toEqual(['left', 'updated'])
    expect(await kinds('--member', bob, '--since', '1h45m30s')).toEqual(['left', 'updated'])
    expect(await kinds('--member', bob)).toEqual(['left', 'updated', 'joined'])
    expect(await kinds('other', '--member', bob)).toEqual([])
    expect(await kinds('--since', '10m')).toEqual(['joined'])
    expect(await kinds('chat', '--until', '70m')).toEqual(['updated', 'joined', 'joined'])
    expect(await kinds('--member', bob, '--since', '100m', '--until', '70m')).toEqual(['updated'])
  })

  test('--stays shows the stays: how long, why they ended, and what they carried last', async () => {
    const rows = cells((await run('history', 'chat', '--stays')).stdout)
    expect(rows[0]).toEqual(['MEMBER', 'TOKEN', 'JOINED', 'LEFT', 'STAYED', 'WHY', 'DATA'])
    expect(rows[1]?.[0]).toBe(ada)
    expect(rows[1]?.slice(3, 5)).toEqual(['still here', expect.stringMatching(/^3h( \dm)?$/)])
    expect(rows[2]?.[0]).toBe(bob)
    expect(rows[2]?.slice(4)).toEqual(['1h', 'deregistered', DATA_OF_BOB])
    const stays = async (...args: string[]) =>
      json((await run('history', '--stays', ...args, '--json')).stdout)
    expect(await stays('--member', bob)).toMatchObject([
      { cluster: 'chat', member: bob, token: 2, reason: 'deregistered' },
    ])
    expect(await stays('chat', '--limit', '1')).toMatchObject([{ member: ada, leftAt: null, reason: null }])
    expect(await stays('chat', '--since', '30m')).toMatchObject([{ member: ada }])
    expect(await stays('chat', '--until', '150m')).toMatchObject([{ member: ada }])
    expect(await stays('--member', bob, '--until', '150m')).toEqual([])
  })
})

describe('what members write does not steer the terminal of whoever looks', () => {
  const hidden = {
    'an escape sequence': '\x1b]0;title\x07\x1b[2J',
    'C0 and DEL': '\x01\b\r\x7f',
    C1: '\x85\x9b31m\x9d',
    'other line breaks': '\u2028\u2029',
    direction: '\u202e\u2066\u200f\u061c',
    'zero width': '\u200b\u200d\u2060\ufeff\u00ad\u180e',
    tags: '\u{e0001}\u{e0041}',
    fillers: '\u3164\u034f',
  }
  const nasty = Object.values(hidden).join('-')
  /** All that may be printed: what is seen, and line breaks. */
  const seen = /^[^\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\u3164\u034f]*$/u
  const shown = (stdout: string): boolean => stdout.split('\n').every((line) => seen.test(line))
  /** Of a schema: at most 63 bytes. */
  const name = 'x\x9b\u202ey'
  const id = randomUUID()
  let elsewhere: string

  beforeAll(async () => {
    elsewhere = await freshSchema()
    await using admin = await adminClient()
    await admin.query(`set search_path = ${elsewhere}`)
    await admin.query(
      `select register($1, array[$2::uuid], array[convert_to($3, 'UTF8')], '{0}', '15s', null, $1, 0)`,
      [`${nasty}\nliar  1`, id, `${nasty}\n${nasty}`],
    )
  })

  test.each([
    ['members', []],
    ['members', ['--at', '0s']],
    ['history', []],
    ['history', ['--stays']],
  ])('%s %j as a table and as JSON', async (command, more) => {
    const table = await pgMembership([command, ...more, '--wide', '--schema', elsewhere])
    expect(table.stdout.split('\n')).toHaveLength(3)
    expect({ ...table, isShown: shown(table.stdout) }).toMatchObject({ code: 0, isShown: true })
    expect(table.stdout).toContain('\\u001b]0;title\\u0007')
    expect(table.stdout).toContain('\\udb40\\udc01')

    const { stdout } = await pgMembership([command, ...more, '--json', '--schema', elsewhere])
    expect(shown(stdout), stdout).toBe(true)
    expect(json(stdout)).toMatchObject([{ cluster: `${nasty}\nliar  1`, data: `${nasty}\n${nasty}` }])
  })

  test('the names of the clusters that there are, and of the one asked for', async () => {
    const { stdout } = await pgMembership(['members', nasty, '--schema', elsewhere])
    expect(stdout).toMatch(/^There has never been a cluster .*\. There are: .*\\nliar {2}1\n$/)
    expect(shown(stdout), stdout).toBe(true)
  })

  test.each([
    ['of the database, which quote a name', 1, ['members', '--schema', name]],
    ['about an argument', 2, ['history', '--limit', nasty]],
    ['about a command', 2, [nasty]],
    ['about a role', 2, ['sql', '--grants', nasty]],
  ])('errors %s', async (_, expected, args) => {
    const { code, stdout, stderr } = await pgMembership(args)
    expect({ code, stdout }).toEqual({ code: expected, stdout: '' })
    expect(stderr.split('\n')).toHaveLength(2)
    expect(shown(stderr), stderr).toBe(true)
  })

  test('what migrate says', async () => {
    await using admin = await adminClient()
    try {
      const { code, stdout } = await pgMembership(['migrate', '--schema', name])
      expect({ code, stdout }).toEqual({
        code: 0,
        stdout: 'Migrated schema "x\\u009b\\u202ey": 0001_membership.\n',
      })
    } finally {
      await admin.query(`drop schema ${admin.escapeIdentifier(name)} cascade`)
    }
  })

  test('but SQL to be run is printed as it is', async () => {
    const { stdout } = await pgMembership(['sql', '--schema', name])
    expect(stdout.trimEnd()).toBe(migrationSql({ schema: name }).trimEnd())
  })
})
