import { defineConfig } from 'vitest/config'

/** docs/guides/migrations.md, with migration tools that are installed in test/recipes for this alone. */
export default defineConfig({
  test: {
    name: 'recipes',
    include: ['test/recipes/*.test.ts'],
    globalSetup: 'test/support/global-setup.ts',
    maxWorkers: 1,
    hookTimeout: 60_000,
    retry: 0,
  },
})
