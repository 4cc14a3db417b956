/** Vitest runs this before each test file, also where several files share a process and the modules that they import. */
import { afterAll, afterEach } from 'vitest'
import { dropSchemas } from './database.js'
import { expectNoWarnings } from './warnings.js'

// A warning fails the test during which it came.
afterEach(expectNoWarnings)
// What came while the last test was cleaned up. Hooks that are registered first run last.
afterAll(expectNoWarnings)
afterAll(dropSchemas)
