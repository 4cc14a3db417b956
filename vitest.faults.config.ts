import { defineConfig } from 'vitest/config'

/** What breaks servers and networks on purpose, or needs programs that npm does not bring. */
export default defineConfig({
  test: {
    name: 'faults',
    include: ['test/faults/**/*.test.ts'],
    globalSetup: ['test/support/require-programs.ts', 'test/support/global-setup.ts'],
    setupFiles: 'test/support/setup.ts',
    maxWorkers: 1,
    testTimeout: 180_000,
    hookTimeout: 60_000,
    retry: 0,
  },
})
