/**
 * How a released schema evolves, by the rules of docs/schema-evolution.md: members live on while it is migrated to
 * a made-up version 2, and back. Their code is the present one. fixtures/released has the files of both versions.
 */
import { readFileSync } from 'node:fs'
import { type Membership, PostgresCluster, SchemaError } from 'pg-membership'
import { expect, onTestFinished, test } from 'vitest'
import { type Direction, migrationFiles, migrationText } from '../src/postgres/schema/files.js'
import { migrateAs } from '../src/postgres/schema/migrate.js'
import { checkSchemaVersion } from '../src/postgres/schema/version.js'
import { catalogOf } from './support/catalog.js'
import { type AdminClient, adminClient, databaseUrl, newSchemaName, uniqueName } from './support/database.js'
import { joined, openAdmin, openCluster } from './support/opened.js'
import { until } from './support/until.js'

const RELEASED = new URL('fixtures/released/', import.meta.url)
const [, second] = migrationFiles(RELEASED)

interface World {
  readonly schema: string
  readonly admin: AdminClient
  /** Of the schema, who migrates. */
  readonly owner: AdminClient
  readonly ownerUrl: string
  readonly memberUrl: string
}

/** Version 1 as it was released, with an owner and a member that have nothing but what they need. */
async function releasedWorld(): Promise<World> {
  const admin = await openAdmin()
  const schema = newSchemaName()
  const names = { owner: uniqueName('owner'), member: uniqueName('member') }
  const urlOf = (role: keyof typeof names): string =>
    Object.assign(new URL(databaseUrl()), { username: names[role], password: 'p' }).href
  for (const name of Object.values(names)) await admin.query(`create role "${name}" login password 'p'`)
  await admin.query(`create schema ${schema} authorization "${names.owner}"`)
  onTestFinished(async () => {
    await using cleaner = await adminClient()
    await cleaner.query(`drop schema ${schema} cascade`)
    for (const name of Object.values(names)) await cleaner.query(`drop role "${name}"`)
  })
  await migrateAs({ version: 1, directory: RELEASED }, { connection: urlOf('owner'), schema })
  const owner = await openAs(urlOf('owner'))
  for (const kind of ['reader', 'member']) {
    const grants = readFileSync(new URL(`grants/${kind}.sql`, RELEASED), 'utf8')
    await owner.query(grants.replaceAll(':"schema"', schema).replaceAll(':"role"', `"${names.member}"`))
  }
  return { schema, admin, owner, ownerUrl: urlOf('owner'), memberUrl: urlOf('member') }
}

async function openAs(url: string): Promise<AdminClient> {
  const client = await adminClient(url)
  onTestFinished(() => client.end())
  return client
}

/** A member that beats, and another process that watches. */
class Living {
  /** The newest that the watcher was shown. */
  seen: readonly string[] = []
  readonly #world: World
  readonly #name = uniqueName()
  readonly #cluster: PostgresCluster
  readonly #membership: Membership
  readonly #watcher: PostgresCluster
  readonly #lease: Membership['lease']
  #round = 0

  static async begin(world: World): Promise<Living> {
    const name = uniqueName()
    const options = { connection: world.memberUrl, schema: world.schema, name, heartbeatMs: 100 }
    const cluster = openCluster(options)
    const watcher = openCluster(options)
    const living = new Living(world, name, cluster, await joined(cluster, { data: 'born' }), watcher)
    void living.#watch()
    await until(() => living.seen.join() === 'born', { message: 'the watcher sees the member' })
    return living
  }

  private constructor(
    world: World,
    name: string,
    cluster: PostgresCluster,
    membership: Membership,
    watcher: PostgresCluster,
  ) {
    this.#world = world
    this.#name = name
    this.#cluster = cluster
    this.#membership = membership
    this.#watcher = watcher
    this.#lease = membership.lease
  }

  async #watch(): Promise<void> {
    for await (const members of this.#watcher.watchMembers()) this.seen = members.map(({ data }) => data)
  }

  /** It beats, changes, and others come and go; the registration is the one that it began with. */
  async goesOn(): Promise<void> {
    const before = await this.#heartbeatAt()
    await until(async () => (await this.#heartbeatAt()) > before, { message: 'a heartbeat since' })
    const data = `round ${(this.#round += 1)}`
    await this.#membership.setData(data)
    await until(() => this.seen.join() === data, { message: `the watcher sees ${data}` })
    const guest = await joined(this.#cluster, { data: 'guest' })
    await until(() => this.seen.join() === `${data},guest`, { message: 'the watcher sees a guest' })
    await guest.deregister()
    await until(() => this.seen.join() === data, { message: 'the watcher sees the guest gone' })
    expect(await this.#watcher.getMembers({ fresh: true })).toMatchObject([{ data }])
    await this.#world.owner.query(`select ${this.#world.schema}.sweep($1)`, [this.#name])
    expect(this.#membership.lease).toBe(this.#lease)
    expect(this.#lease?.signal.aborted).toBe(false)
    const { rows } = await this.#world.admin.query<{ token: string }>(
      `select token from ${this.#world.schema}.members where id = $1`,
      [this.#membership.id],
    )
    expect(rows).toEqual([{ token: String(this.#lease?.token) }])
  }

  async #heartbeatAt(): Promise<string> {
    const { rows } = await this.#world.admin.query<{ at: string }>(
      `select extract(epoch from heartbeat_at)::text as at from ${this.#world.schema}.members where id = $1`,
      [this.#membership.id],
    )
    return rows[0]?.at ?? ''
  }
}

async function versionOf({ admin, schema }: World): Promise<object | undefined> {
  return (await admin.query<object>(`select * from ${schema}.schema_version()`)).rows[0]
}

/** As psql -1 runs the file; the transaction stays open until a heartbeat has had to wait for it. */
async function runPlainly({ owner, admin, schema }: World, direction: Direction): Promise<void> {
  if (second === undefined) throw new Error('fixtures/released has no second version')
  await owner.query('begin')
  await owner.query(migrationText(second, direction, schema))
  await until(
    async () =>
      (
        await admin.query(`select from pg_locks l where not l.granted and l.relation = $1::text::regclass`, [
          `${schema}.members`,
        ])
      ).rowCount,
    { message: 'a heartbeat waits for the migration' },
  )
  await owner.query('commit')
}

async function runByMigrate({ ownerUrl, schema }: World): Promise<void> {
  const code = { version: 2, directory: RELEASED }
  expect(await migrateAs(code, { connection: ownerUrl, schema })).toEqual(['0002_zones'])
  expect(await migrateAs(code, { connection: ownerUrl, schema })).toEqual([])
}

test.each([
  ['the plain file', (world: World) => runPlainly(world, 'up')],
  ['migrate()', runByMigrate],
])(
  'promises 2 and 7: members keep their registrations while %s brings the next version, and takes it back',
  async (_how, run) => {
    const world = await releasedWorld()
    const living = await Living.begin(world)
    await living.goesOn()
    const before = await catalogOf(world.admin, world.schema)
    await run(world)
    expect(await versionOf(world)).toEqual({ version: 2, compatible_from: 1 })
    await living.goesOn()
    const { rows } = await world.admin.query(`select distinct zone from ${world.schema}.members`)
    expect(rows).toEqual([{ zone: '' }])
    // The migrator of older code leaves the newer version alone.
    const options = { connection: world.ownerUrl, schema: world.schema }
    expect(await migrateAs({ version: 1, directory: RELEASED }, options)).toEqual([])
    await runPlainly(world, 'down')
    expect(await versionOf(world)).toEqual({ version: 1, compatible_from: 1 })
    expect(await catalogOf(world.admin, world.schema)).toEqual(before)
    await living.goesOn()
    await runByMigrate(world)
  },
)

test('promise 7: a migration that finds a long transaction in its way gives up before anybody is lost', async () => {
  const world = await releasedWorld()
  const living = await Living.begin(world)
  const slow = await openAs(world.memberUrl)
  await slow.query('begin')
  await slow.query(`select from ${world.schema}.members`)
  const before = await catalogOf(world.admin, world.schema)
  const code = { version: 2, directory: RELEASED }
  const options = { connection: world.ownerUrl, schema: world.schema }
  await expect(migrateAs(code, options)).rejects.toMatchObject({ code: '55P03' })
  expect(await catalogOf(world.admin, world.schema)).toEqual(before)
  await living.goesOn()
  await slow.query('rollback')
  expect(await migrateAs(code, options)).toEqual(['0002_zones'])
  await living.goesOn()
})

test('promise 12: a prepared statement whose result has another type afterwards is made anew', async () => {
  const world = await releasedWorld()
  const living = await Living.begin(world)
  await living.goesOn()
  await world.owner.query('begin')
  const { schema } = world
  await world.owner.query(`
    alter function ${schema}.sweep_overdue(text) rename to sweep_overdue_1;
    create function ${schema}.sweep_overdue(cluster_name text) returns text language sql
      set search_path = ${schema}, pg_temp
      as 'select left(sweep_overdue_1(cluster_name)::text, 1)';
    grant execute on function ${schema}.sweep_overdue(text) to public`)
  await world.owner.query('commit')
  await living.goesOn()
})

test('contract: code refuses a schema that is too old or too new for it, and says what to do', async () => {
  const world = await releasedWorld()
  const { schema, owner } = world
  const options = { connection: world.ownerUrl, schema }
  expect(() => checkSchemaVersion({ version: 1, compatibleFrom: 1 }, 2)).toThrow(
    'The schema has version 1; this pg-membership knows version 2. Run: npx pg-membership migrate',
  )
  await owner.query(`create or replace function ${schema}.schema_version(out version integer, out compatible_from integer)
    language sql immutable as 'select 3, 3'`)
  const message =
    /^The schema has version 3, and needs code that knows 3; this pg-membership knows version \d\. Upgrade the package/
  await expect(migrateAs({ version: 2, directory: RELEASED }, options)).rejects.toThrow(message)
  await using cluster = new PostgresCluster({ connection: world.memberUrl, schema, name: 'c' })
  await expect(cluster.getMembers()).rejects.toThrow(SchemaError)
  await expect(cluster.createMembership().register()).rejects.toThrow(message)
})
