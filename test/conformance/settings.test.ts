/**
 * What administrators set for a role or a database must not matter. Each draw is a database of its own: the
 * owner who migrates and the member whose processes take part have settings drawn at random.
 *
 * In npm test the draws are always the same few. DRAWS=n makes more, by a random seed, as npm run test:settings does.
 * SEED=n chooses the seed. A draw does not depend on how many there are.
 */
import { migrate, SchemaError } from 'pg-membership'
import { expect, onTestFinished, test } from 'vitest'
import { catalogOf } from '../support/catalog.js'
import { Chance } from '../support/chance.js'
import { pgMembership } from '../support/command-line.js'
import { adminClient, databaseUrl, uniqueName } from '../support/database.js'
import { joined, openCluster } from '../support/opened.js'
import { drawSettings, possibleSettings, type Setting, setting, shown } from '../support/settings.js'
import { size } from '../support/size.js'
import { until } from '../support/until.js'
import { PostgresHarness } from './postgres-harness.js'
import { CHECKS, conformance } from './suite.js'

const draws = Number(process.env.DRAWS ?? size(6, 2))
const seed = Number(process.env.SEED ?? (process.env.DRAWS === undefined ? 1 : Date.now() % 2 ** 32))
const ENCODINGS = ['UTF8', 'LATIN1', 'SQL_ASCII'] as const
type Encoding = (typeof ENCODINGS)[number]
const CHECKS_PER_DRAW = 8
const SCHEMA = 'drawn'
const PASSWORD = 'p'

const ALL_OF_UNICODE = CHECKS.filter(({ sentence }) => sentence.endsWith('identical: any well-formed string'))
/** What waits for silence, or is about names that not every database can hold. */
const SOME = CHECKS.filter(
  (check) =>
    ['registering', 'data', 'reading', 'losing', 'fencing', 'claims', 'nonces'].includes(check.noun) &&
    !ALL_OF_UNICODE.includes(check) &&
    !/silence|is away|whatever their names are|is no key|is no value/.test(check.sentence),
)
const possible = await (async () => {
  await using admin = await adminClient()
  return await possibleSettings(admin)
})()

const chance = new Chance(seed)
for (let n = 0; n < draws; n++) {
  const encoding = ENCODINGS[n % ENCODINGS.length] ?? ENCODINGS[0]
  const drawn = drawSettings(chance, possible)
  const always = encoding === 'UTF8' ? [] : ALL_OF_UNICODE
  const checks = [...always, ...Array.from({ length: CHECKS_PER_DRAW }, () => chance.pick(SOME))]
  const told = telling(`with ${shown(drawn)}`)
  conformance(
    `draw ${n + 1} of seed ${seed}, ${encoding}`,
    () => told(startDrawn(encoding, drawn)),
    [...new Set(checks)].map(({ check, ...rest }) => ({ ...rest, check: (world) => told(check(world)) })),
  )
}

/** What fails says under which settings it did. */
function telling(settings: string): <T>(promise: Promise<T>) => Promise<T> {
  return (promise) =>
    promise.catch((cause: unknown) => {
      throw new Error(`${String(cause)}\n${settings}`, { cause })
    })
}

/** A database of this encoding, migrated by an owner and used by a member, both with these settings. */
async function startDrawn(encoding: Encoding, drawn: readonly Setting[]): Promise<PostgresHarness> {
  const created = await createDatabase(encoding)
  try {
    await migrateDrawn(created, drawn)
  } catch (error) {
    await created.drop()
    throw error
  }
  const { url, member, drop } = created
  return await PostgresHarness.start({
    schema: SCHEMA,
    adminUrl: url(),
    url: url(member),
    reuse: false,
    closed: drop,
  })
}

/** What comes of a migration is the same whatever the settings are. */
async function migrateDrawn({ url, owner, member }: Created, drawn: readonly Setting[]): Promise<void> {
  await using admin = await adminClient(url())
  await migrate({ connection: url(owner), schema: 'plain' })
  for (const role of [owner, member]) {
    for (const one of drawn) await admin.query(`alter role ${role} ${setting(one)}`)
  }
  await migrate({ connection: url(owner), schema: SCHEMA })
  expect(await migrate({ connection: url(owner), schema: SCHEMA })).toEqual([])
  expect(await catalogOf(admin, SCHEMA)).toEqual(await catalogOf(admin, 'plain'))
  const grants = await pgMembership(['sql', '--schema', SCHEMA, '--grants', `member=${member}`])
  await using granting = await adminClient(url(owner))
  await granting.query('begin read write')
  await granting.query(grants.stdout)
  await granting.query('commit')
}

interface Created {
  readonly owner: string
  readonly member: string
  /** As a role; by default as the superuser. */
  readonly url: (role?: string) => string
  readonly drop: () => Promise<void>
}

async function createDatabase(encoding: Encoding): Promise<Created> {
  const [database, owner, member] = ['draw', 'owner', 'member'].map((what) =>
    uniqueName(what).replaceAll('-', '_'),
  ) as [string, string, string]
  await using admin = await adminClient()
  for (const role of [owner, member]) await admin.query(`create role ${role} login password '${PASSWORD}'`)
  await admin.query(
    `create database ${database} owner ${owner} encoding '${encoding}' locale 'C' template template0`,
  )
  const url = (role?: string): string => {
    const url = new URL(databaseUrl())
    url.pathname = database
    if (role !== undefined) Object.assign(url, { username: role, password: PASSWORD })
    return url.href
  }
  await using inside = await adminClient(url())
  await inside.query(DECOYS)
  return {
    owner,
    member,
    url,
    async drop() {
      await using admin = await adminClient()
      await admin.query(`drop database ${database} with (force)`)
      for (const role of [owner, member]) await admin.query(`drop role ${role}`)
    },
  }
}

/** What a search_path finds before ours, if anything of ours is looked for without its schema. */
const DECOYS = `
  create schema decoys;
  grant usage on schema decoys to public;
  create table decoys.members (id uuid, cluster text, data bytea, token bigint);
  create table decoys.clusters (name text, revision bigint, stamp uuid);
  create table decoys.events (cluster text, revision bigint, kind text);
  create table decoys.sweeps (cluster text, swept_at timestamptz);
  grant all on all tables in schema decoys to public;
  create function decoys.schema_version(out version integer, out compatible_from integer) as 'select 99, 99' language sql;
  create function decoys.channel(text) returns text as $$ select 'decoy' $$ language sql;
  create function decoys.advance(text, bigint, bigint default null) returns text as $$ select 'decoy' $$ language sql;
  create function decoys.readable(bytea) returns text as $$ select 'decoy' $$ language sql;
  create function decoys.sweep_overdue(text) returns boolean as 'select true' language sql`

test('promises 12 and 14: a cluster whose name the database can hold works, in any encoding', async () => {
  for (const [encoding, name] of [
    ['LATIN1', 'é'],
    ['SQL_ASCII', '✓'],
  ] as const) {
    const { url, drop } = await createDatabase(encoding)
    onTestFinished(drop)
    await migrate({ connection: url() })
    const [one, other] = [openCluster({ connection: url(), name }), openCluster({ connection: url(), name })]
    const membership = await joined(one, { data: '✓' })
    expect(await other.getMembers()).toMatchObject([{ id: membership.id, data: '✓' }])
    await membership.deregister()
    expect(await other.getMembers({ fresh: true })).toEqual([])
  }
})

test('promises 12 and 14: a cluster whose name the database cannot hold is refused by each call that needs it', async () => {
  const { url, drop } = await createDatabase('LATIN1')
  onTestFinished(drop)
  await migrate({ connection: url() })
  const cluster = openCluster({ connection: url(), name: '✓' })
  const membership = cluster.createMembership()
  for (const call of [
    () => membership.register(),
    () => cluster.getMembers(),
    () => cluster.getMembers({ fresh: true }),
    () => cluster.watchMembers().next(),
  ]) {
    const refusal: unknown = await call().catch((error: unknown) => error)
    expect(refusal).toBeInstanceOf(SchemaError)
    expect(refusal).toMatchObject({ message: expect.stringContaining('LATIN1') as string })
  }
  // There is nothing to wait for.
  const left = membership.deregister().then(
    () => true,
    (error: unknown) => error instanceof SchemaError,
  )
  expect(await until(() => left, { message: 'deregister settles' })).toBe(true)
})
