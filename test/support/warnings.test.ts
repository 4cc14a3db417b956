import { execFile } from 'node:child_process'
import { setImmediate } from 'node:timers/promises'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { takeWarnings } from './warnings.js'

test('contract: a warning in the process of a test is noticed, with where it came from', async () => {
  process.emitWarning('of a test')
  await setImmediate()
  expect(takeWarnings()).toMatch(/Warning: of a test\n.*warnings\.test/)
  expect(takeWarnings()).toBe('')
})

test('contract: a warning in a process that a process of a test has started is noticed', async () => {
  const inner = `process.emitWarning('of a grandchild')`
  const outer = `require('node:child_process').execFileSync(process.execPath, ['-e', ${JSON.stringify(inner)}])`
  await promisify(execFile)(process.execPath, ['-e', outer])
  expect(takeWarnings()).toMatch(/Warning: of a grandchild/)
})
