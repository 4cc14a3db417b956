import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    exclude: ['test/faults/**'],
    globalSetup: 'test/support/global-setup.ts',
    setupFiles: 'test/support/warnings.ts',
    // Files mostly wait for one PostgreSQL that they share: two at once even on one core, and never a crowd.
    maxWorkers: Math.max(2, Math.min(4, availableParallelism())),
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // A test that fails sometimes is a finding.
    retry: 0,
  },
})
