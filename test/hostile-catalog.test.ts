/**
 * A stranger's names come first in everybody's search_path (test/support/hostile-catalog.sql). Nothing may run any of
 * them: not a statement that the library sends, also where no setting of the connection helps (behind a pooler), and
 * not what the migrations make, whatever runs them.
 */
import { readdirSync, readFileSync } from 'node:fs'
import type pg from 'pg'
import { migrate, migrationSql, PostgresCluster } from 'pg-membership'
import { Claims } from 'pg-membership/claims'
import { NoncePool } from 'pg-membership/nonces'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { diagnose } from '../dist/cli/doctor/diagnose.js'
import { servePage } from '../dist/web/server.js'
import { PostgresHarness } from './conformance/postgres-harness.js'
import { CHECKS, conformance } from './conformance/suite.js'
import { catalogOf, foreignNames } from './support/catalog.js'
import { follow, pgMembership } from './support/command-line.js'
import { adminClient, uniqueName } from './support/database.js'
import { typeMembers } from './support/event-log.js'
import { HOSTILE_ROLES, type HostileRole, startHostileDatabase } from './support/hostile-catalog.js'
import { openAdmin } from './support/opened.js'
import { startPretendPooler } from './support/pretend-pooler.js'
import { size } from './support/size.js'
import { until } from './support/until.js'

const hostile = await startHostileDatabase()
const { admin, url, nameOf } = hostile
const pooler = await startPretendPooler(url())
afterAll(async () => {
  await pooler[Symbol.asyncDispose]()
  await hostile[Symbol.asyncDispose]()
})

const SCHEMA = 'ours'
/** For those who show everything that there is: the suite leaves megabytes of data. */
const SHOWN = 'shown'
for (const schema of [SCHEMA, SHOWN]) {
  await migrate({ connection: plain('owner'), schema })
  await grantAll(schema)
}

/** As this role, and with the path that everybody has who is not attacked. */
function plain(role: HostileRole): string {
  const found = new URL(url(role))
  found.searchParams.set('options', '-c search_path=public')
  return found.href
}

async function grantAll(schema: string): Promise<void> {
  const kinds = HOSTILE_ROLES.filter((role) => role !== 'owner').map((role) => `${role}=${nameOf[role]}`)
  const { stdout } = await pgMembership(['sql', '--schema', schema, '--grants', kinds.join()])
  await using owner = await adminClient(plain('owner'))
  await owner.query(stdout)
}

async function nothingRan(): Promise<void> {
  expect(await hostile.ran()).toEqual([])
}

/** As psql divides a file: at semicolons outside of quotes and bodies. */
function statementsOf(text: string): string[] {
  const pieces = text.match(/\$(?<tag>\w*)\$.*?\$\k<tag>\$|'(?:[^']|'')*'|--[^\n]*|;|[^;$'-]+|./gs) ?? []
  const statements: string[] = []
  let statement = ''
  for (const piece of [...pieces, ';']) {
    if (piece === ';') {
      statements.push(statement)
      statement = ''
    } else if (!piece.startsWith('--')) statement += piece
  }
  return statements.filter((text) => text.trim() !== '')
}

async function pathOf(client: pg.ClientBase): Promise<string | undefined> {
  const { rows } = await client.query<{ path: string }>(
    `select pg_catalog.current_setting('search_path') as path`,
  )
  return rows[0]?.path
}

/** Ways to run what is printed. */
const WAYS: Readonly<Record<string, (client: pg.ClientBase, text: string) => Promise<unknown>>> = {
  'as one query': (client, text) => client.query(text),
  'as one query in a transaction': async (client, text) => {
    await client.query('begin')
    await client.query(text)
    await client.query('commit')
  },
  'as statements in a transaction, whose path is its own': async (client, text) => {
    await client.query('begin; set local search_path = pg_temp, evil, pg_catalog')
    for (const statement of statementsOf(text)) await client.query(statement)
    expect(await pathOf(client)).toBe('pg_temp, evil, pg_catalog')
    await client.query('commit')
  },
  'as statements without a transaction': async (client, text) => {
    for (const statement of statementsOf(text)) await client.query(statement)
  },
}

describe('promise 15: what a migration makes is bound to the names of PostgreSQL, and nothing of a stranger runs', () => {
  /** Everything that belongs to `schema` is as it is in SCHEMA. */
  async function expectSound(schema: string): Promise<void> {
    await nothingRan()
    expect(await foreignNames(admin, schema)).toEqual([])
    const [found, wanted] = [await catalogOf(admin, schema), await catalogOf(admin, SCHEMA)]
    const withoutGrants = (lines: readonly string[]) => lines.map((line) => line.replace(/ acl \S*/, ''))
    expect(withoutGrants(found)).toEqual(withoutGrants(wanted))
  }

  test('by migrate()', async () => {
    await migrate({ connection: url('owner'), schema: 'called' })
    await expectSound('called')
    expect(await migrate({ connection: url('owner'), schema: 'called' })).toEqual([])
  })

  test('by the command line, which also takes it away', async () => {
    const env = { DATABASE_URL: url('owner') }
    expect(await pgMembership(['migrate', '--schema', 'commanded'], env)).toMatchObject({ code: 0 })
    await expectSound('commanded')
    const uninstalled = await pgMembership(['uninstall', '--yes', '--schema', 'commanded'], env)
    expect(uninstalled).toMatchObject({ code: 0 })
    await nothingRan()
    expect(await catalogOf(admin, 'commanded')).toEqual([])
  })

  test.each(Object.entries(WAYS))(
    'by the printed SQL, %s, also for the grants and the way back',
    async (_, run) => {
      await using owner = await adminClient(url('owner'))
      const schema = uniqueName('printed').replaceAll('-', '_')
      const before = await pathOf(owner)
      await run(owner, migrationSql({ schema }))
      await expectSound(schema)
      expect(await pathOf(owner)).toBe(before)
      expect(await migrate({ connection: url('owner'), schema })).toEqual([])

      const { stdout } = await pgMembership([
        'sql',
        '--schema',
        schema,
        '--grants',
        `member=${nameOf.member}`,
      ])
      await run(owner, stdout)
      await nothingRan()
      const { rows } = await admin.query(
        `select has_function_privilege($1, $2 || '.fence(uuid, bigint)', 'execute') as granted`,
        [nameOf.member, schema],
      )
      expect(rows).toEqual([{ granted: true }])

      await run(owner, migrationSql({ schema, direction: 'down' }))
      await nothingRan()
      expect(await pathOf(owner)).toBe(before)
      expect(await catalogOf(admin, schema)).toEqual([expect.stringMatching(/^schema acl /)])
    },
  )
})

/** Some of those that are quick, of each part of the suite; with LONG=yes all there are. */
const QUICK = CHECKS.filter(
  ({ noun, sentence }) =>
    !['closing', 'the host', 'bad input', 'routing'].includes(noun) &&
    !/silence|is away|any well-formed string|whatever their names are/.test(sentence),
)
const step = size(1, 5)
const checks = (step === 1 ? CHECKS : QUICK).filter((_, n) => n % step === 0)

conformance(
  'promise 15: nothing of a stranger runs as a member',
  () =>
    PostgresHarness.start({
      schema: SCHEMA,
      adminUrl: url(),
      url: pooler.url(url('member')),
      listens: true,
    }),
  checks.map(({ check, ...rest }) => ({ ...rest, check: (world) => check(world).then(nothingRan) })),
)

/** The statements that the library sends begin with their names. */
const STATEMENTS = readdirSync(new URL('../src/postgres', import.meta.url), {
  encoding: 'utf8',
  recursive: true,
})
  .filter((file) => file.endsWith('.ts'))
  .flatMap((file) => [
    ...readFileSync(new URL(`../src/postgres/${file}`, import.meta.url), 'utf8').matchAll(
      /^ *-- ([a-z_]+(?: [a-z_]+)*)$/gm,
    ),
  ])
  .map(([, name]) => name ?? '')

test('promise 15: nothing of a stranger runs by any statement that the library sends', async () => {
  const open = (role: HostileRole, name: string): PostgresCluster => {
    const connection = pooler.url(url(role))
    const cluster = new PostgresCluster({
      name,
      schema: SCHEMA,
      connection,
      listenConnection: connection,
      ttlMs: 3_000,
    })
    onTestFinished(() => cluster.close())
    return cluster
  }
  const name = uniqueName()
  const [cluster, other, reader] = [open('member', name), open('member', name), open('reader', name)]
  const watched = cluster.watchChanges()
  const first = watched.next()
  const [membership, another] = [cluster.createMembership({ data: 'a' }), other.createMembership()]
  await membership.register()
  await another.register()
  await membership.setData('b')
  expect((await first).value).toMatchObject({ kind: 'joined' })
  const client = await openAdmin(pooler.url(url('member')))
  const claims = new Claims({ cluster, membership })
  const pool = new NoncePool({ cluster, membership, name: 'pool' })
  expect([...(await claims.claim(['k']))]).toEqual(['k'])
  expect(await claims.owner('k')).toMatchObject({ id: membership.id })
  await pool.stock(['1', '2', '3'])
  const nonce = await pool.take()
  await client.query('begin')
  await membership.fence(client)
  await claims.fence(client, ['k'])
  await nonce.use(client)
  await client.query('commit')
  await claims.release(['k'])
  await pool.close()
  await another.deregister()
  await until(async () => (await reader.getMembers()).length === 1, { message: 'the reader sees who left' })
  // Now there is something to do for a sweep.
  const [typed] = await typeMembers(admin, SCHEMA, name, ['typed'])
  await admin.query(`update ${SCHEMA}.members set suspected_at = clock_timestamp() where id = $1`, [typed])
  const missing = (): string[] =>
    STATEMENTS.filter((sent) => ![...pooler.statements].some((text) => text.includes(`-- ${sent}\n`)))
  await until(() => missing().length === 0, { message: () => `statements: ${missing().join()}` })
  await membership.deregister()
  await nothingRan()
})

test('promise 15: nothing of a stranger runs where it matches better than what PostgreSQL has, in the usual path', async () => {
  await admin.query(`
    create function public.to_json(uuid[]) returns json language plpgsql
      as $$ begin perform evil.ran('to_json'); return pg_catalog.to_json($1); end $$;
    create function public.times(numeric, integer) returns numeric language plpgsql
      as $$ begin perform evil.ran('*'); return $1 operator(pg_catalog.*) $2; end $$;
    create operator public.* (leftarg = numeric, rightarg = integer, function = public.times)`)
  onTestFinished(async () => {
    await admin.query('drop function public.to_json(uuid[]), public.times(numeric, integer) cascade')
  })
  for (const connection of [plain('member'), pooler.url(plain('member'))]) {
    const cluster = new PostgresCluster({ name: uniqueName(), schema: SCHEMA, connection })
    onTestFinished(() => cluster.close())
    const membership = cluster.createMembership()
    await membership.register()
    await membership.setData('x')
    await membership.deregister()
  }
  await nothingRan()
})

test('promise 15: a connection of its own looks for names in pg_catalog only, whatever the role has', async () => {
  const name = uniqueName()
  const cluster = new PostgresCluster({ name, schema: SCHEMA, connection: url('member') })
  onTestFinished(() => cluster.close())
  // What runs at the commit runs with the settings of the connection.
  await admin.query(`
    create table if not exists public.paths (path text, cluster text);
    grant insert on public.paths to public;
    create or replace function public.note_path() returns trigger language plpgsql as $$
    begin
      insert into public.paths values (pg_catalog.current_setting('search_path'), new.cluster);
      return null;
    end
    $$;
    create constraint trigger note_path after insert or update on ${SCHEMA}.members
      deferrable initially deferred for each row execute function public.note_path()`)
  onTestFinished(async () => {
    await admin.query(`drop trigger note_path on ${SCHEMA}.members`)
  })
  const membership = cluster.createMembership()
  await membership.register()
  await membership.setData('x')
  const { rows } = await admin.query('select distinct path from public.paths where cluster = $1', [name])
  expect(rows).toEqual([{ path: 'pg_catalog, pg_temp' }])
})

describe('promise 15: nothing of a stranger runs by', () => {
  async function registered(): Promise<{ cluster: PostgresCluster; name: string; id: string }> {
    const name = uniqueName()
    const cluster = new PostgresCluster({ name, schema: SHOWN, connection: plain('member') })
    onTestFinished(() => cluster.close())
    const membership = cluster.createMembership({ data: 'a' })
    await membership.register()
    return { cluster, name, id: membership.id }
  }

  /** Commands with their arguments, and as whom they are run. */
  const commands = (name: string, id: string): Readonly<Record<string, [HostileRole, ...string[][]]>> => ({
    members: ['reader', [name], [], ['--at', '1s'], ['--json']],
    history: [
      'reader',
      [name],
      ['--stays'],
      ['--timeline', name],
      ['--member', id],
      ['--since', '1h', '--until', '1s'],
    ],
    flapping: ['reader', [], [name]],
    evict: ['operator', [name, id, '--note', 'n', '--stay-away', '1h'], [name, id, '--note', 'n', '--drain']],
    allow: ['operator', [name, id]],
    trim: ['owner', ['--older-than', '1h']],
    drop: ['owner', [name, '--yes']],
    migrate: ['owner', ['--dry-run']],
    sql: ['reader', []],
  })
  const ELSEWHERE = ['doctor', 'uninstall', 'watch', 'web']

  test('any command', async () => {
    const { cluster, name, id } = await registered()
    const all = [...(await pgMembership(['--help'])).stdout.matchAll(/^ {2}(\w+) /gm)].map(
      ([, command]) => command,
    )
    expect([...Object.keys(commands('', '')), ...ELSEWHERE].toSorted()).toEqual(all.toSorted())
    for (const [command, [role, ...calls]] of Object.entries(commands(name, id))) {
      if (command === 'drop') await cluster.close()
      for (const args of calls) {
        const call = [command, ...args, ...(command === 'sql' ? [] : ['--schema', SHOWN])]
        const outcome = await pgMembership(call, { DATABASE_URL: url(role) })
        expect([call, outcome.stderr, outcome.code]).toEqual([call, '', 0])
        expect([call, await hostile.ran()]).toEqual([call, []])
      }
    }
  })

  test('a command that goes on', async () => {
    const { name } = await registered()
    const env = { DATABASE_URL: url('reader') }
    const watching = follow(['watch', name, '--schema', SHOWN, '--json'], env)
    const listing = follow(['members', name, '--watch', '--schema', SHOWN, '--json'], env)
    await until(() => listing.lines().length > 0, { message: 'a list' })
    const change = async (): Promise<boolean> => {
      await admin.query(`update ${SHOWN}.members set data = data || '!' where cluster = $1`, [name])
      return watching.lines().length > 0
    }
    await until(change, { message: 'a change' })
    expect(watching.written.stderr + listing.written.stderr).toBe('')
    await nothingRan()
  })

  test('the doctor, who finds in the schema what he finds elsewhere, and can check as much', async () => {
    const found = async (connection: string): Promise<readonly string[]> => {
      const { stdout } = await pgMembership(['doctor', '--json', '--schema', SHOWN], {
        DATABASE_URL: connection,
      })
      return (JSON.parse(stdout) as Record<'code' | 'severity' | 'what', string>[])
        .filter(({ code, what }) => /^(schema|privileges|row)/.test(code) || what.startsWith('could not be'))
        .map(({ code, severity, what }) => `${severity} ${code}: ${what}`)
    }
    for (const role of HOSTILE_ROLES) {
      expect([role, await found(url(role))]).toEqual([role, await found(plain(role))])
    }
    await nothingRan()
  })

  test('the page', async () => {
    const { name, id } = await registered()
    const page = await servePage({
      connection: url('reader'),
      schema: SHOWN,
      host: '127.0.0.1',
      port: 0,
      diagnose: (query) => diagnose({ query, schema: SHOWN, hearing: undefined }),
    })
    onTestFinished(() => page.close())
    const now = Date.now()
    const questions = {
      pulse: { cluster: name },
      members: { cluster: name, at: now - 1 },
      timeline: { cluster: name, from: now - 60_000, to: now },
      changes: { cluster: name, at: now },
      data: { cluster: name, id, token: 1, at: now },
      findings: {},
    }
    const asked = readFileSync(new URL('../src/web/answering.ts', import.meta.url), 'utf8')
    expect([...asked.matchAll(/'\/api\/(\w+)'/g)].map(([, path]) => path).toSorted()).toEqual(
      Object.keys(questions).toSorted(),
    )
    for (const [path, parameters] of Object.entries(questions)) {
      for (const some of [
        parameters,
        'at' in parameters && path !== 'data' ? { cluster: name } : undefined,
      ]) {
        if (some === undefined) continue
        const search = new URLSearchParams(
          Object.entries(some).map(([key, value]): [string, string] => [key, String(value)]),
        )
        const response = await fetch(`${page.url}api/${path}?${search.toString()}`)
        expect([path, response.status, await response.text()]).toEqual([path, 200, expect.any(String)])
      }
    }
    await nothingRan()
  })
})
