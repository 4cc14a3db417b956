import { defineConfig } from 'vitest/config'

/** The page in a real browser, which npm does not bring. */
export default defineConfig({
  test: {
    name: 'web',
    include: ['test/web/**/*.test.ts'],
    globalSetup: ['test/support/require-programs.ts', 'test/support/global-setup.ts'],
    setupFiles: 'test/support/setup.ts',
    maxWorkers: 1,
    testTimeout: 60_000,
    hookTimeout: 60_000,
    retry: 0,
  },
})
