import { defineConfig } from 'vitest/config'

/** Patroni, etcd, HAProxy and two PostgreSQL servers of Debian's: ten minutes of switchovers and failovers. */
export default defineConfig({
  test: {
    name: 'ha',
    include: ['test/ha/**/*.test.ts'],
    globalSetup: 'test/support/require-programs.ts',
    setupFiles: 'test/support/setup.ts',
    maxWorkers: 1,
    testTimeout: 1_800_000,
    hookTimeout: 240_000,
    retry: 0,
  },
})
