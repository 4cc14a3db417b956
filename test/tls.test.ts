/**
 * TLS to a server that takes nothing else, with certificates of a private authority.
 * support/certificates/make.sh makes them; they are committed, since not every machine has OpenSSL.
 */
import { chmodSync, copyFileSync, readFileSync } from 'node:fs'
import { appendFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type ConnectionConfig, ConnectionError, migrate, OptionError } from 'pg-membership'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type AdminClient, adminClient, uniqueName } from './support/database.js'
import { joined, openCluster } from './support/opened.js'
import { giveTo, NOBODY } from './support/postgres-binaries.js'
import { type PostgresServer, startPostgres } from './support/postgres-server.js'
import { until } from './support/until.js'

type Connection = string | ConnectionConfig

let server: PostgresServer
let admin: AdminClient

beforeAll(async () => {
  server = await startPostgres({ fsync: false })
  for (const name of ['ca.crt', 'server.crt', 'server.key', 'expired.crt']) {
    const copy = join(server.dataDirectory, name)
    copyFileSync(fileOf(name), copy)
    // PostgreSQL refuses a key that others may read.
    chmodSync(copy, 0o600)
    if (process.getuid?.() === 0) giveTo(NOBODY, copy)
  }
  const settings = ["ssl = 'on'", "ssl_ca_file = 'ca.crt'", "ssl_key_file = 'server.key'"]
  await appendFile(join(server.dataDirectory, 'postgresql.conf'), settings.join('\n'))
  await migrate({ connection: server.url })
  admin = await adminClient(server.url)
  await admin.query('create role app login superuser; create role certified login superuser')
  await writeFile(
    join(server.dataDirectory, 'pg_hba.conf'),
    ['host all postgres all trust', 'hostssl all app all trust', 'hostssl all certified all cert', ''].join(
      '\n',
    ),
  )
})

afterAll(async () => {
  await admin.end()
  await server[Symbol.asyncDispose]()
})

beforeEach(() => serve('server.crt'))

function fileOf(name: string): string {
  return join(import.meta.dirname, 'support/certificates', name)
}

function textOf(name: string): string {
  return readFileSync(fileOf(name), 'utf8')
}

/** New connections get this certificate from now on. */
async function serve(certificate: string): Promise<void> {
  await admin.query(`alter system set ssl_cert_file = '${certificate}'`)
  await admin.query('select pg_reload_conf()')
  await until(
    async () => {
      const { rows } = await admin.query<{ ssl: string }>(`select current_setting('ssl_cert_file') as ssl`)
      return rows[0]?.ssl === certificate
    },
    { message: 'the server has read its settings' },
  )
}

interface Way {
  readonly host?: string
  readonly user?: string
  readonly ca?: string
  readonly certificate?: string
}

/** One way to connect, as a URL and as a configuration. */
const forms: Readonly<Record<string, (way: Way) => Connection>> = {
  'a URL': ({ host = 'localhost', user = 'app', ca, certificate }) => {
    const url = new URL(server.url)
    url.hostname = host
    url.username = user
    url.searchParams.set('sslmode', 'verify-full')
    if (ca !== undefined) url.searchParams.set('sslrootcert', fileOf(ca))
    if (certificate !== undefined) {
      url.searchParams.set('sslcert', fileOf(certificate))
      url.searchParams.set('sslkey', fileOf('client.key'))
    }
    return url.href
  },
  'a configuration': ({ host = 'localhost', user = 'app', ca, certificate }) => ({
    ...{ host, user, port: server.port, database: 'postgres' },
    ssl: {
      ...(ca === undefined ? {} : { ca: textOf(ca) }),
      ...(certificate === undefined ? {} : { cert: textOf(certificate), key: textOf('client.key') }),
    },
  }),
}

/** What the code of the error says, for what went wrong. */
const wrong: Readonly<Record<string, readonly [Way, string]>> = {
  'another authority': [{ ca: 'stranger-ca.crt' }, 'SELF_SIGNED_CERT_IN_CHAIN'],
  'an authority that nobody named': [{}, 'SELF_SIGNED_CERT_IN_CHAIN'],
  'another host name': [{ ca: 'ca.crt', host: '127.0.0.1' }, 'ERR_TLS_CERT_ALTNAME_INVALID'],
  'no client certificate where one is asked for': [{ ca: 'ca.crt', user: 'certified' }, '28000'],
  'a client certificate of another authority': [
    { ca: 'ca.crt', user: 'certified', certificate: 'stranger.crt' },
    'ERR_SSL_TLSV1_ALERT_UNKNOWN_CA',
  ],
}

async function expectRefused(connection: Connection, code: string): Promise<void> {
  let attempts = 0
  const cluster = openCluster({
    name: uniqueName(),
    connection: () => {
      attempts += 1
      return Promise.resolve(connection)
    },
  })
  const refused: unknown = await cluster.getMembers().catch((error: unknown) => error)
  expect(refused).toBeInstanceOf(ConnectionError)
  expect((refused as ConnectionError).cause).toMatchObject({ code })
  await expect(cluster.createMembership().register()).rejects.toThrow(ConnectionError)
  expect(cluster.status.lastError).toBeInstanceOf(ConnectionError)
  // Nothing is tried again by itself: there is one attempt for each call, and one for the listener.
  for (let connected = 0; connected < 5; connected++) await (await adminClient(server.url)).end()
  expect(attempts).toBeLessThanOrEqual(3)
}

describe.each(Object.entries(forms))('with %s', (_name, form) => {
  test.each<[string, Way]>([
    ['verify-full', { ca: 'ca.crt' }],
    ['verify-full and a client certificate', { ca: 'ca.crt', user: 'certified', certificate: 'client.crt' }],
  ])('contract: %s protects all three connections', async (_what, way) => {
    const cluster = openCluster({ name: uniqueName(), connection: form(way) })
    await joined(cluster)
    await until(() => cluster.status.mode === 'listening', { message: 'it listens' })
    const { rows } = await admin.query(
      `select s.ssl, s.client_dn from pg_stat_ssl s join pg_stat_activity a using (pid)
       where application_name = (select session from pgmembership.members where cluster = $1)`,
      [cluster.name],
    )
    const client_dn = way.certificate === undefined ? null : '/CN=certified'
    expect(rows).toEqual(Array(3).fill({ ssl: true, client_dn }))
  })

  test.each(Object.entries(wrong))(
    'contract: %s rejects each call at once with a ConnectionError',
    async (_what, [way, code]) => {
      await expectRefused(form(way), code)
    },
  )

  test('contract: an expired certificate rejects each call at once with a ConnectionError', async () => {
    await serve('expired.crt')
    await expectRefused(form({ ca: 'ca.crt' }), 'CERT_HAS_EXPIRED')
  })

  test.each(['listenConnection', 'connection'] as const)(
    'contract: what is wrong with the certificate for one connection of three is told, for %s',
    async (which) => {
      const good = form({ ca: 'ca.crt' })
      if (which === 'listenConnection') {
        const listenConnection = form({ ca: 'stranger-ca.crt' })
        const cluster = openCluster({ name: uniqueName(), connection: good, listenConnection })
        await joined(cluster)
        await until(() => cluster.status.lastError instanceof ConnectionError, { message: 'it is told' })
        expect(cluster.status.mode).toBe('polling')
        return
      }
      const cluster = openCluster({ name: uniqueName(), connection: good })
      await cluster.getMembers()
      await serve('expired.crt')
      // The connection for writes is opened only now.
      await expect(cluster.createMembership().register()).rejects.toThrow(ConnectionError)
    },
  )
})

test('contract: without TLS, the server refuses, and each call rejects at once with a ConnectionError', async () => {
  const url = new URL(server.url)
  url.username = 'app'
  await expectRefused(url.href, '28000')
})

test('contract: a certificate file of a URL that cannot be read is told at once, by its name', async () => {
  const url = new URL(server.url)
  url.searchParams.set('sslrootcert', '/no/such/file.crt')
  const cluster = openCluster({ name: uniqueName(), connection: url.href })
  await expect(cluster.getMembers()).rejects.toThrow(OptionError)
  await expect(cluster.getMembers()).rejects.toThrow('/no/such/file.crt')
})
