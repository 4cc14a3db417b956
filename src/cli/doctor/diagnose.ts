/** All checks, one after another, on one connection that only reads. */
import { quoteIdentifier } from '../../postgres/identifier.js'
import type { Query } from '../database.js'
import type { Check, Finding } from './finding.js'
import { installationChecks } from './installation.js'
import { memberChecks } from './members.js'
import { serverChecks } from './server.js'

/**
 * Needs a transaction under way, and a role that may read. What the role may not see is a finding, too. Never rejects
 * unless the connection is lost.
 */
export async function diagnose(query: Query, schema: string): Promise<readonly Finding[]> {
  const name = quoteIdentifier(schema)
  const findings: Finding[] = []
  for (const check of [...installationChecks(schema), ...memberChecks, ...serverChecks(name)]) {
    findings.push(...(await tried(query, check)))
  }
  return findings
}

async function tried(query: Query, check: Check): Promise<readonly Finding[]> {
  await query('savepoint looked', [])
  try {
    const findings = await check.run(query)
    await query('release savepoint looked', [])
    return findings
  } catch (error) {
    await query('rollback to savepoint looked', [])
    return [
      {
        code: `${check.code}-unknown`,
        severity: 'note',
        what: `This could not be looked at: ${check.code} (${(error as Error).message}).`,
        consequence: 'What is wrong there is not seen.',
        todo: 'Ask as a role that may see it: the owner, or a member of pg_monitor.',
      },
    ]
  }
}
