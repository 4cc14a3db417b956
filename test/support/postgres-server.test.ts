import { expect, test, vi } from 'vitest'
import { startPostgres } from './postgres-server.js'

test('a server is started from the directory that TEST_POSTGRES names', async () => {
  vi.stubEnv('TEST_POSTGRES', '/a/postgres/of/another/version')
  try {
    await expect(startPostgres()).rejects.toThrow('/a/postgres/of/another/version')
  } finally {
    vi.unstubAllEnvs()
  }
})
