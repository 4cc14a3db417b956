import type { TestProject } from 'vitest/node'
import { provideServer } from './global-setup.js'
import { oldestBinaries } from './postgres-binaries.js'

/** The oldest PostgreSQL that is supported, whatever the other tests run on. */
export default function oldestSetup(project: TestProject): Promise<() => Promise<void>> {
  return provideServer(project, { binaries: oldestBinaries() })
}
