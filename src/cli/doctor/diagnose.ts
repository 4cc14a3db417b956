/** What is wrong with a schema, its database and the connection to it. */
import { connectionChecks } from './connection.js'
import { driftChecks } from './drift.js'
import type { Finding, Patient, Severity } from './finding.js'
import { memberChecks } from './members.js'
import { ownershipChecks, trusted } from './ownership.js'
import { pathChecks } from './paths.js'
import { rightsChecks } from './rights.js'
import { schemaChecks } from './schema.js'
import { serverChecks } from './server.js'

const CHECKS = {
  ...ownershipChecks,
  ...schemaChecks,
  ...driftChecks,
  ...rightsChecks,
  ...pathChecks,
  ...connectionChecks,
  ...memberChecks,
  ...serverChecks,
}
const SEVERITIES: readonly Severity[] = ['alert', 'warning', 'note', 'ok']

/**
 * Makes all checks over one connection, inside a transaction of the caller's. It writes nothing. A reader's role is
 * enough: a check that the role may not make is reported as a note. Returns the worst first.
 */
export async function diagnose(asked: Patient): Promise<Finding[]> {
  const patient = { ...asked, query: await trusted(asked) }
  const findings: Finding[] = []
  for (const [code, check] of Object.entries(CHECKS)) {
    await patient.query('savepoint pg_membership_doctor', [])
    try {
      findings.push(...(await check(patient)))
    } catch (error) {
      await patient.query('rollback to savepoint pg_membership_doctor', [])
      findings.push({
        code,
        severity: 'note',
        what: `could not be checked: ${(error as Error).message}`,
        consequence: 'Nothing is known about it.',
        todo: 'Run it with a role that has the grants of a reader, and as a member of pg_monitor to see more.',
      })
    }
  }
  return findings.sort((a, b) => SEVERITIES.indexOf(a.severity) - SEVERITIES.indexOf(b.severity))
}
