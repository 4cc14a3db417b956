import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'

/** What concerns privileges, triggers and isolation: servers differ there, so the oldest runs it as well. */
const ON_THE_OLDEST_TOO = [
  'test/{arguments,by-hand,catalog-rules,default-privileges,doctor,doctor-ownership,evolution,fence,fence-bounds,function-fuzz,hostile-callers,hostile-catalog,ownership,pairs,role-page,roles,web-answers}.test.ts',
  'test/promises/{evicting,evicting-others,heartbeats,log,open-sweep,retention,sweep}.test.ts',
  'test/layers/{claims,nonces}.test.ts',
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
    setupFiles: 'test/support/setup.ts',
    // Files often wait, for one PostgreSQL that they share and for time: two more than there are cores, and no crowd.
    maxWorkers: Math.min(5, availableParallelism() + 2),
    // Files share a process, one after another: loading Kysely and vitest for each would take a fifth of the time.
    isolate: false,
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
          exclude: ['test/{faults,ha,package,recipes,web}/**'],
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
