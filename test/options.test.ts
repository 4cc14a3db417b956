import fc from 'fast-check'
import pg from 'pg'
import {
  ConnectionError,
  migrate,
  migrationSql,
  OptionError,
  PostgresCluster,
  SchemaError,
} from 'pg-membership'
import { MemoryCluster } from 'pg-membership/memory'
import { describe, expect, test } from 'vitest'
import { adminClient, databaseUrl, freshSchema, newSchemaName, uniqueName } from './support/database.js'

const connection = 'postgres://localhost/app'
const make = (options: Record<string, unknown>) => () =>
  new PostgresCluster({ name: 'chat', connection, ...options })

describe('options', () => {
  test.each([
    ['name', ''],
    ['name', undefined],
    ['name', 7],
    ['name', 'x'.repeat(256)],
    ['name', 'é'.repeat(128)],
    ['name', 'a\0b'],
    ['name', '\ud800'],
    ['schema', ''],
    ['schema', 'pg_membership'],
    ['schema', 'information_schema'],
    ['schema', '$user'],
    ['schema', 'x'.repeat(64)],
    ['schema', 'a\0b'],
    ['ttlMs', 0],
    ['ttlMs', -1],
    ['ttlMs', Number.NaN],
    ['ttlMs', Infinity],
    ['ttlMs', 999],
    ['ttlMs', 86_400_001],
    ['ttlMs', '15000'],
    ['heartbeatMs', 0],
    ['heartbeatMs', 7_501],
    ['pollMs', 0],
    ['pollMs', Number.NaN],
    ['crashGraceMs', 0],
    ['crashGraceMs', 7_501],
    ['crashGraceMs', true],
    ['closeTimeoutMs', -1],
    ['logger', {}],
    ['logger', null],
    ['connection', ''],
    ['connection', undefined],
    ['connection', 5432],
    ['connection', 'mysql://localhost/app'],
    ['connection', 'postgres://localhost:99999/app'],
    ['connection', 'postgres://local host/app'],
    ['listenConnection', ''],
  ])('contract: a bad %s (%j) is refused by the constructor, by its name', (option, value) => {
    expect(make({ [option]: value })).toThrow(OptionError)
    expect(make({ [option]: value })).toThrow(option)
  })

  test.each([
    ['host', ''],
    ['host', 7],
    ['port', 0],
    ['port', 65_536],
    ['port', 1.5],
    ['port', 'x'],
    ['database', ''],
    ['user', 'a\0b'],
    ['password', 7],
    ['options', 5],
    ['options', 'a\0b'],
    ['ssl', 'yes'],
    ['ssl', 5],
    ['ssl', ['ca']],
    ['ssl', { ca: 5 }],
    ['ssl', { cert: 'no certificate' }],
    ['ssl', { checkServerIdentity: 5 }],
    ['sslnegotiation', 'fast'],
    ['enableChannelBinding', 'yes'],
    ['scramMaxIterations', -1],
    ['stream', () => undefined],
    ['replication', 'database'],
    ['connection', {}],
    ['hots', 'localhost'],
    ['sslmode', 'require'],
  ])('contract: a connection with a bad %s (%j) is refused by the constructor', (part, value) => {
    expect(make({ connection: { host: 'localhost', [part]: value } })).toThrow(OptionError)
    expect(make({ connection: { host: 'localhost', [part]: value } })).toThrow(`connection.${part}`)
  })

  test.each([
    ['?ssl=yes', 'connection.ssl'],
    ['?port=many', 'connection.port'],
    ['?options=a%00b', 'connection.options'],
    ['?replication=true', 'connection.replication'],
    ['?sslnegotiation=direct&ssl=false', 'connection.ssl'],
    ['?user=%00', 'connection.user'],
  ])('contract: a URL with a bad parameter (%s) is refused by the constructor', (parameters, named) => {
    expect(make({ connection: `postgres://localhost/app${parameters}` })).toThrow(OptionError)
    expect(make({ connection: `postgres://localhost/app${parameters}` })).toThrow(named)
    expect(make({ connection: { connectionString: `postgres://localhost/app${parameters}` } })).toThrow(named)
  })

  test.each([
    'postgres://user@/app?host=/var/run/postgresql',
    'postgres://%2Fvar%2Frun%2Fpostgresql/app',
    '/var/run/postgresql app',
    'postgresql://me:p%40ss@[::1]:5432/app?sslmode=verify-full&sslrootcert=/no/such/file',
    'postgres://localhost/app?schema=public&connection_limit=1&pgbouncer=true&connect_timeout=10&ssl=false',
  ])('contract: a URL that pg takes (%s) is taken', (connection) => {
    expect(make({ connection })).not.toThrow()
  })

  test('contract: what is no connection is refused by the constructor, and the message says what to give', async () => {
    const pool = new pg.Pool()
    const cluster = make({})()
    for (const [connection, instead] of [
      [pool, 'what the pool or client was made with'],
      [new pg.Client(), 'what the pool or client was made with'],
      [new URL('postgres://localhost/app'), 'href'],
      [Promise.resolve('postgres://localhost/app'), 'the function that returns the promise'],
      [cluster, "'connections' of the cluster"],
      [[], 'a URL, a configuration or a function'],
      [new Date(), 'a URL, a configuration or a function'],
      [null, 'a URL, a configuration or a function'],
    ] as const) {
      for (const option of ['connection', 'listenConnection']) {
        expect(make({ [option]: connection })).toThrow(OptionError)
        expect(make({ [option]: connection })).toThrow(instead)
      }
      const migrating = migrate({ connection: connection as unknown as string })
      await expect(migrating).rejects.toThrow(OptionError)
    }
    await Promise.all([pool.end(), cluster.close()])
  })

  test('contract: names of options that nobody reads are refused, and the one that is meant is named', async () => {
    const cluster = make({})()
    await using memory = new MemoryCluster({ name: 'chat' })
    const attempts: [name: string, meant: string, attempt: (options: object) => unknown][] = [
      ['ttlms', 'ttlMs', (options) => make({ ...options })()],
      ['ttl', 'ttlMs', (options) => make({ ...options })()],
      ['shcema', 'schema', (options) => make({ ...options })()],
      ['connectionString', 'connection', (options) => make({ ...options })()],
      ['onlost', 'onLost', (options) => cluster.createMembership(options)],
      ['onlost', 'onLost', (options) => memory.createMembership(options)],
      ['worlds', 'world', (options) => new MemoryCluster({ name: 'chat', ...options })],
      ['form', 'from', (options) => migrationSql(options)],
    ]
    for (const [name, meant, attempt] of attempts) {
      expect(() => attempt({ [name]: undefined })).toThrow(OptionError)
      expect(() => attempt({ [name]: 7 })).toThrow(`has no option "${name}". Did you mean '${meant}'?`)
      expect(() => attempt({ somethingElse: 7 })).toThrow(/has no option "somethingElse"$/)
    }
    await expect(migrate({ connection, schma: 'x' } as never)).rejects.toThrow("Did you mean 'schema'?")
    await cluster.close()
  })

  test('contract: options that are no object are refused as such', async () => {
    const cluster = make({})()
    for (const options of [null, 5, 'chat', []]) {
      expect(() => new PostgresCluster(options as never)).toThrow(OptionError)
      expect(() => new MemoryCluster(options as never)).toThrow(OptionError)
      expect(() => cluster.createMembership(options as never)).toThrow(OptionError)
      expect(() => migrationSql(options as never)).toThrow(OptionError)
      await expect(migrate(options as never)).rejects.toThrow(OptionError)
    }
    expect(() => new MemoryCluster({ name: 'chat', world: {} as never })).toThrow(OptionError)
    await cluster.close()
  })

  test('contract: an error never shows a password', () => {
    const attempts = [
      { connection: 'postgres://me:secret@local host/app' },
      { connection: 'mysql://me:secret@localhost/app' },
      { connection: { host: 'localhost', password: ['secret'] } },
    ]
    for (const options of attempts) {
      expect(make(options)).toThrow(OptionError)
      expect(make(options)).not.toThrow(/secret/)
    }
  })

  test('promise 14: every name and schema that PostgreSQL can hold is accepted', () => {
    const holdable = (maxBytes: number) =>
      fc
        .string({ unit: 'grapheme', minLength: 1, maxLength: 60 })
        .filter(
          (text) => !text.includes('\0') && Buffer.byteLength(text) <= maxBytes && !text.startsWith('pg_'),
        )
    fc.assert(
      fc.property(holdable(255), holdable(63), (name, schema) => {
        expect(make({ name, schema })().name).toBe(name)
      }),
    )
  })
})

describe('a connection that cannot work', () => {
  const url = new URL(databaseUrl())
  const wrong = (change: (url: URL) => void): string => {
    const copy = new URL(url)
    change(copy)
    return copy.href
  }

  test.each([
    ['database', wrong((url) => (url.pathname = '/no_such_database'))],
    ['user', wrong((url) => (url.username = 'no_such_user'))],
    ['host name', { host: 'no such host', port: 5432 }],
    ['encryption', wrong((url) => url.searchParams.set('sslmode', 'no-verify'))],
  ])('contract: a wrong %s rejects every call at once with a ConnectionError', async (_part, connection) => {
    await using cluster = new PostgresCluster({ name: uniqueName(), connection })
    const membership = cluster.createMembership()
    await expect(cluster.getMembers()).rejects.toThrow(ConnectionError)
    await expect(cluster.watchMembers().next()).rejects.toThrow(ConnectionError)
    await expect(membership.register()).rejects.toThrow(ConnectionError)
    expect(cluster.status).toMatchObject({
      mode: 'connecting',
      lastError: expect.any(ConnectionError) as Error,
    })
  })

  test('contract: a missing schema rejects every call with a SchemaError that names the command', async () => {
    const schema = newSchemaName()
    await using cluster = new PostgresCluster({ name: uniqueName(), connection: databaseUrl(), schema })
    await expect(cluster.getMembers()).rejects.toThrow(SchemaError)
    await expect(cluster.getMembers()).rejects.toThrow('npx pg-membership migrate')
    await expect(cluster.watchMembers().next()).rejects.toThrow(SchemaError)
    await expect(cluster.createMembership().register()).rejects.toThrow(SchemaError)
  })

  test('contract: what a connection function returns is checked, too', async () => {
    const connection = () => Promise.resolve('mysql://localhost/app')
    await using cluster = new PostgresCluster({ name: uniqueName(), connection })
    await expect(cluster.getMembers()).rejects.toThrow(OptionError)
  })

  test.each([
    ['undefined', undefined],
    ['a pool', new pg.Pool()],
    ['options that are no string', { host: '127.0.0.1', options: 5 }],
    ['a misspelt field', { hots: '127.0.0.1' }],
    ['another function', () => databaseUrl()],
  ])(
    'contract: a connection function that returns %s rejects every call with an OptionError',
    async (_, found) => {
      const connection = (() => found) as unknown as () => Promise<string>
      await using cluster = new PostgresCluster({ name: uniqueName(), connection })
      const membership = cluster.createMembership()
      await expect(cluster.getMembers()).rejects.toThrow(OptionError)
      await expect(cluster.watchMembers().next()).rejects.toThrow(OptionError)
      await expect(membership.register()).rejects.toThrow(OptionError)
      await expect(migrate({ connection })).rejects.toThrow(OptionError)
    },
  )

  test('contract: a database that cannot be reached is waited for, and the last error is told', async () => {
    await using cluster = new PostgresCluster({
      name: uniqueName(),
      connection: { host: '127.0.0.1', port: 1 },
      closeTimeoutMs: 100,
    })
    const signal = AbortSignal.timeout(300)
    const outcome = await cluster.getMembers({ signal }).catch((error: unknown) => error)
    expect(outcome).toMatchObject({ name: 'AbortError', cause: signal.reason as unknown })
    expect((outcome as { lastError?: Error }).lastError?.message).toContain('ECONNREFUSED')
  })
})

describe('a connection that works', () => {
  test('contract: what an application gives its own pool is taken, and what the library decides itself is ignored', async () => {
    const schema = await freshSchema()
    const application_name = uniqueName('application')
    await using admin = await adminClient()
    const inUrl = new URL(databaseUrl())
    for (const name of [
      'application%5Fname',
      'fallback_application_name',
      'statement_timeout',
      'query_timeout',
    ]) {
      inUrl.search += `${inUrl.search === '' ? '?' : '&'}${name}=${name.endsWith('name') ? application_name : '1'}`
    }
    const config = {
      connectionString: databaseUrl(),
      application_name,
      max: 20,
      idleTimeoutMillis: 1,
      ...{ binary: true, pipeline: true, types: {}, Promise: 5, query_timeout: 1, statement_timeout: 1 },
      ...{ lock_timeout: 1, connectionTimeoutMillis: 1, keepAlive: 'no', client_encoding: 'latin1' },
      ...{ replication: false, ssl: null, host: null, options: null, stream: undefined },
    }
    for (const connection of [inUrl.href, config as unknown as string, { connectionString: inUrl.href }]) {
      const name = uniqueName()
      await using cluster = new PostgresCluster({ name, connection, schema })
      await cluster.createMembership({ data: 'é' }).register()
      await expect.poll(() => cluster.status.mode).toBe('listening')
      expect(await cluster.getMembers({ fresh: true })).toMatchObject([{ data: 'é' }])
      const named = 'select from pg_stat_activity where application_name = $1'
      expect((await admin.query(named, [application_name])).rowCount).toBe(0)
      expect(await migrate({ connection, schema })).toEqual([])
    }
  })
})
