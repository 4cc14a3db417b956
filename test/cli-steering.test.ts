/** The commands that change something, and those that go on. */
import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { pgMembership } from './support/command-line.js'
import { type AdminClient, adminClient, freshSchema, newSchemaName, uniqueName } from './support/database.js'
import { storyOf } from './support/event-log.js'

let admin: AdminClient
let schema: string

beforeAll(async () => {
  schema = await freshSchema()
  admin = await adminClient()
  await admin.query(`set search_path = ${schema}`)
})
afterAll(() => admin.end())

const run = (...args: string[]) => pgMembership([...args, '--schema', schema])

async function joined(cluster: string, data = 'x'): Promise<string> {
  const id = randomUUID()
  const register = `select from register($1, array[$2::uuid], array[convert_to($3, 'UTF8')], '{0}', '15s', null, 's', 0)`
  await admin.query(register, [cluster, id, data])
  return id
}

describe('contract: evict', () => {
  test('removes a member and keeps it away, until it is allowed again', async () => {
    const name = uniqueName()
    const id = await joined(name)
    const evicted = await run('evict', name, id, '--note', 'disk full')
    expect(evicted).toMatchObject({ code: 0, stderr: '' })
    expect(evicted.stdout).toBe(
      `It is removed (registration 1). It stays away until: pg-membership allow ${JSON.stringify(name)} ${id}\n`,
    )
    expect(await storyOf(admin, schema, name)).toEqual(['joined registered', 'left removed'])
    const { rows } = await admin.query<{ note: string }>('select note from evictions where cluster = $1', [
      name,
    ])
    expect(rows).toEqual([{ note: 'disk full' }])
    expect((await run('allow', name, id)).stdout).toBe('It may come back.\n')
    expect((await run('allow', name, id, '--json')).stdout).toBe(
      `${JSON.stringify({ cluster: name, member: id, allowed: false })}\n`,
    )
  })

  test('--drain leaves the row to its process, --stay-away ends by itself', async () => {
    const name = uniqueName()
    const id = await joined(name)
    const { stdout } = await run('evict', name, id, '--note', 'deploy', '--drain', '--stay-away', '90m')
    expect(stdout).toBe('It is asked to leave (registration 1). It stays away for 90m\n')
    const { rows } = await admin.query(
      `select draining_since is not null as draining, until - at between interval '89 min' and interval '91 min' as until
      from members m join evictions v on v.member = m.id where m.id = $1`,
      [id],
    )
    expect(rows).toEqual([{ draining: true, until: true }])
  })

  test.each([
    [['evict', 'c'], 2, 'give the cluster, and the id'],
    [['evict', 'c', 'bob', '--note', 'x'], 2, 'must be the id of a member'],
    [['evict', 'c', randomUUID()], 2, '--note is missing'],
    [['evict', 'c', randomUUID(), '--note', 'x', '--stay-away', '2026-01-01'], 2, 'must be a duration'],
    [['evict', 'c', randomUUID(), '--note', 'x'], 1, 'there is no cluster c'],
    [['allow', 'c'], 2, 'give the cluster, and the id'],
    [['trim'], 2, '--older-than is missing'],
    [['drop'], 2, 'give the name of the cluster'],
    [['evict', 'c', randomUUID(), '--note', ''], 2, '--note needs a value'],
    [
      ['evict', 'c', randomUUID(), '--note', 'x', '--stay-away', '0s'],
      1,
      'stays away until it is allowed again',
    ],
    [['evict', 'c', randomUUID(), '--drain', '--note', 'x'.repeat(1001)], 1, 'It tells others why'],
    [['watch', 'c', '--since', 'yesterday'], 2, 'since'],
  ])('%j is refused: exit code %i, and why', async (args, expected, words) => {
    const { code, stdout, stderr } = await run(...args)
    expect({ code, stdout }).toEqual({ code: expected, stdout: '' })
    expect(stderr).toContain(words)
  })
})

test('contract: drop is refused while the cluster has members, says what is lost, and forgets it afterwards', async () => {
  const name = uniqueName()
  const id = await joined(name)
  const drop = (typed?: string, ...args: string[]) =>
    pgMembership(['drop', name, ...args, '--schema', schema], {}, typed === undefined ? {} : { typed })
  expect(await drop()).toMatchObject({ code: 2, stderr: expect.stringContaining('give --yes') as string })
  expect(await drop(undefined, '--yes')).toMatchObject({
    code: 1,
    stderr: `pg-membership: cluster ${name} has members. It can be dropped when they have left.\n`,
  })
  await admin.query('delete from members where id = $1', [id])
  await admin.query(
    `insert into nonces (cluster, name, value, used_at) values ($1, 'p', 'a', now()), ($1, 'p', 'b', null)`,
    [name],
  )
  const loss =
    '2 changes of the log and 2 nonces (1 of them used: these values can then be used a second time)'
  const wrong = await drop('yes')
  expect(wrong).toMatchObject({ code: 1, stdout: '' })
  expect(wrong.stderr).toBe(
    `This forgets the cluster "${name}" for good: ${loss}.\nType its name to confirm: pg-membership: that is not its name: nothing is forgotten\n`,
  )
  expect(await storyOf(admin, schema, name)).not.toEqual([])
  expect(await drop(name)).toMatchObject({ code: 0, stdout: `Dropped the cluster "${name}": ${loss}.\n` })
  expect(await drop(undefined, '--yes')).toMatchObject({ code: 1 })
  expect(await storyOf(admin, schema, name)).toEqual([])
  expect((await admin.query('select from nonces where cluster = $1', [name])).rowCount).toBe(0)
})

test('contract: drop knows a cluster that comes after many others', async () => {
  const other = await freshSchema()
  await admin.query(
    `insert into ${other}.clusters (name, channel) select 'a' || n, 'c' || n from generate_series(1, 30) n union all values ('z', 'c')`,
  )
  const drop = () => pgMembership(['drop', 'z', '--yes', '--schema', other])
  expect((await drop()).stdout).toContain('Dropped the cluster "z"')
  expect((await drop()).stderr).toContain('There are: a1, a10')
})

test('contract: trim deletes what is older, and nothing of the present', async () => {
  const other = await freshSchema()
  await admin.query(
    `insert into ${other}.events (cluster, revision, stamp, at, kind, reason, member, token, registered_at)
    select 'old', n, gen_random_uuid(), clock_timestamp() - n * interval '1 day', 'left', 'expired', gen_random_uuid(), n,
      clock_timestamp() - n * interval '1 day' from generate_series(1, 10) n`,
  )
  const trim = (...args: string[]) => pgMembership(['trim', ...args, '--schema', other])
  expect((await trim('--older-than', '132h')).stdout).toBe('Deleted 5 changes.\n')
  expect((await trim('--older-than', '1d12h', '--json')).stdout).toBe('{"trimmed":4}\n')
})

test('contract: flapping shows who left most often, and why', async () => {
  const [name, other] = [uniqueName('a'), uniqueName('b')]
  const [once, twice, thrice, stranger] = [randomUUID(), randomUUID(), randomUUID(), randomUUID()]
  const left: (readonly [string, string, number, string])[] = [
    [name, thrice, 1, 'expired'],
    [name, thrice, 2, 'crashed'],
    [name, thrice, 3, 'expired'],
    [name, twice, 5, 'removed'],
    [name, twice, 4, 'removed'],
    // The last to leave of those that left once in a day.
    [name, once, 23, 'expired'],
    [name, once, 25, 'expired'],
    [name, once, 26, 'expired'],
    [name, once, 27, 'expired'],
    [other, stranger, 6, 'expired'],
  ]
  for (const [n, [cluster, member, hours, reason]] of left.entries()) {
    // Each had joined and changed its data before: these do not count.
    await admin.query(
      `insert into events (cluster, revision, stamp, at, kind, reason, member, token, registered_at)
      select $1, $2 * 10 + k, gen_random_uuid(), clock_timestamp() - $3 * interval '1 h',
        (array['joined', 'updated', 'left'])[k], (array['registered', 'data', $4])[k], $5, $2,
        clock_timestamp() - $3 * interval '1 h' from generate_series(1, 3) k`,
      [cluster, n + 1, hours, reason, member],
    )
  }
  for (const cluster of [name, other]) {
    await admin.query(
      `insert into clusters (name, revision, last_token, channel) values ($1, 109, 10, channel($1))`,
      [cluster],
    )
  }
  const flapping = async (...args: string[]) =>
    JSON.parse((await run('flapping', ...args, '--json')).stdout) as object[]
  const most = { cluster: name, member: thrice, left: 3, reasons: { crashed: 1, expired: 2 } }
  expect(await flapping(name)).toMatchObject([most, { member: twice, left: 2 }, { member: once, left: 1 }])
  expect(await flapping(name, '--since', '48h', '--limit', '2')).toMatchObject([
    { member: once, left: 4 },
    most,
  ])
  expect(await flapping(name, '--since', '90m')).toMatchObject([{ member: thrice, left: 1 }])
  expect(await flapping(other)).toMatchObject([{ cluster: other, member: stranger }])
  const ones = (await flapping()) as { readonly member: typeof once }[]
  // Who left last comes first.
  expect(ones.map(({ member }) => member).filter((member) => [stranger, once].includes(member))).toEqual([
    stranger,
    once,
  ])
  expect((await run('flapping', name)).stdout).toContain('crashed 1, expired 2')
})

test('contract: uninstall says what is lost, is refused while members live, and removes everything', async () => {
  const other = await freshSchema()
  await admin.query(
    `select ${other}.register('c', array[gen_random_uuid()], '{x}', '{0}', '1s', null, 's', 0)`,
  )
  const uninstall = (typed?: string, ...args: string[]) =>
    pgMembership(['uninstall', ...args, '--schema', other], {}, typed === undefined ? {} : { typed })
  const isThere = async () =>
    (await admin.query('select from pg_namespace where nspname = $1', [other])).rowCount === 1
  const alive = `1 members are alive in schema "${other}": stop their processes first, or give --force`
  expect(await uninstall(undefined, '--yes')).toMatchObject({
    code: 1,
    stderr: `pg-membership: ${alive}\n`,
  })
  const loss = '1 members alive, 1 clusters, 1 changes of the log and 0 nonces'
  const wrong = await uninstall('yes', '--force')
  expect(wrong).toMatchObject({ code: 1, stdout: '' })
  expect(wrong.stderr).toBe(
    `This removes schema "${other}" for good: ${loss}.\nType its name to confirm: pg-membership: that is not its name: nothing is removed\n`,
  )
  await admin.query(`create table public.${other} (member uuid references ${other}.members (id))`)
  const needed = await uninstall(undefined, '--yes', '--force')
  expect(needed).toMatchObject({ code: 1, stdout: '' })
  expect(needed.stderr).toContain(`${other}_member_fkey`)
  expect(needed.stderr).toContain('Drop what is yours first: nothing is removed')
  await admin.query(`drop table public.${other}`)
  expect((await admin.query(`select from ${other}.events`)).rowCount).toBe(1)

  expect(await uninstall(other, '--force')).toMatchObject({
    code: 0,
    stdout: `Removed schema "${other}": ${loss}.\n`,
  })
  expect(await isThere()).toBe(false)
  expect(await uninstall(undefined, '--yes')).toMatchObject({
    code: 1,
    stderr: `pg-membership: there is no pg-membership in schema "${other}"\n`,
  })
})

test('contract: uninstall takes members that are past their ttl for dead, and leaves a schema with other things', async () => {
  const other = await freshSchema()
  await admin.query(`create table ${other}.customers (id integer)`)
  await admin.query(`alter table ${other}.members disable trigger user`)
  await admin.query(
    `insert into ${other}.members (id, cluster, heartbeat_at) values (gen_random_uuid(), 'c', now() - interval '1 h')`,
  )
  const { code, stdout } = await pgMembership(['uninstall', '--yes', '--json', '--schema', other])
  expect({ code, found: JSON.parse(stdout) as unknown }).toEqual({
    code: 0,
    found: { schema: other, version: 1, alive: 0, clusters: 0, events: 0, nonces: 0, schemaIsGone: false },
  })
  const { rows } = await admin.query(
    `select relname from pg_class where relnamespace = $1::regnamespace and relkind in ('r', 'v')
    union all select proname from pg_proc where pronamespace = $1::regnamespace
    union all select typname from pg_type where typnamespace = $1::regnamespace and typtype = 'd'`,
    [other],
  )
  expect(rows).toEqual([{ relname: 'customers' }])
})

test('contract: migrate --dry-run says what it would run, and changes nothing', async () => {
  const other = newSchemaName()
  const migrate = (...args: string[]) => pgMembership(['migrate', ...args, '--schema', other])
  expect((await migrate('--dry-run')).stdout).toContain(
    ': 0001_membership. npx pg-membership sql --from 0 prints',
  )
  expect((await admin.query('select from pg_namespace where nspname = $1', [other])).rowCount).toBe(0)
  expect(await migrate()).toMatchObject({ code: 0 })
  expect((await migrate('--dry-run')).stdout).toBe(`Schema "${other}" is up to date.\n`)
  expect(JSON.parse((await migrate('--dry-run', '--json')).stdout)).toEqual({
    schema: other,
    migrations: [],
    dryRun: true,
  })
})
