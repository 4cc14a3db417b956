import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'

/** What concerns privileges, triggers and isolation: servers differ there, so the oldest runs it as well. */
const ON_THE_OLDEST_TOO = [
  'test/{arguments,by-hand,catalog-rules,doctor,evolution,fence,function-fuzz,hostile-callers,roles}.test.ts',
  'test/promises/{log,sweep}.test.ts',
]

export default defineConfig({
  test: {
    // npm run test:coverage: which branches no test takes. No threshold: it is for reading.
    coverage: {
      provider: 'v8',
      include: ['dist/**/*.js', 'src/**/*.ts'],
      reporter: ['text', 'html'],
      reportsDirectory: 'coverage',
    },
    setupFiles: 'test/support/warnings.ts',
    // Files mostly wait for one PostgreSQL that they share: one more than there are cores, and never a crowd.
    maxWorkers: Math.min(5, availableParallelism() + 1),
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // A test that fails sometimes is a finding.
    retry: 0,
    projects: [
      {
        extends: true,
        test: {
          name: 'all',
          include: ['test/**/*.test.ts'],
          exclude: ['test/faults/**'],
          globalSetup: 'test/support/global-setup.ts',
        },
      },
      {
        extends: true,
        test: {
          name: 'oldest',
          include: ON_THE_OLDEST_TOO,
          globalSetup: 'test/support/oldest-setup.ts',
        },
      },
    ],
  },
})
