import fc from 'fast-check'
import { ConnectionError, OptionError, PostgresCluster, SchemaError } from 'pg-membership'
import { describe, expect, test } from 'vitest'
import { databaseUrl, newSchemaName, uniqueName } from './support/database.js'

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
  ])('contract: a connection with a bad %s (%j) is refused by the constructor', (part, value) => {
    expect(make({ connection: { host: 'localhost', [part]: value } })).toThrow(OptionError)
    expect(make({ connection: { host: 'localhost', [part]: value } })).toThrow(`connection.${part}`)
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
