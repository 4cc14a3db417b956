import { SchemaError } from '../api/errors.js'
import { schemaName } from '../postgres/options.js'
import { type Command, CONNECTION_HELP, type Report } from './command.js'
import { connectionUrl, reading } from './database.js'
import { diagnose } from './doctor/diagnose.js'
import type { Finding, Severity } from './doctor/finding.js'
import { listeningFinding } from './doctor/listening.js'

const ALERTED = 3
const RANK: Readonly<Record<Severity, number>> = { alert: 0, warning: 1, note: 2, ok: 3 }

export const doctorCommand: Command = {
  summary: 'what is wrong, what follows from it, and what to do',
  help: `Usage: pg-membership doctor [options]

Looks at the schema, the members and the server, and says what is wrong, what follows from it and what to
do. It changes nothing. A role that may read is enough; what it may not see is said.

Exit codes: 0 no alert, ${String(ALERTED)} at least one alert; 1 and 2 as for every command.

${CONNECTION_HELP}`,
  options: {},
  maxPositionals: 0,
  connects: true,
  async run(args): Promise<Report> {
    const schema = schemaName(args.text('schema'))
    const findings = await reading(args, (query) => diagnose(query, schema)).catch(schemaFinding)
    const all = [...findings, await listeningFinding(connectionUrl(args))]
    all.sort((a, b) => RANK[a.severity] - RANK[b.severity])
    return {
      text: args.flag('json') ? JSON.stringify(all, null, 2) : all.map(inWords).join('\n'),
      exitCode: all.some(({ severity }) => severity === 'alert') ? ALERTED : 0,
    }
  },
}

/** Nothing else can be asked of a schema that is missing, or of another version. */
function schemaFinding(error: unknown): readonly Finding[] {
  if (!(error instanceof SchemaError)) throw error
  const [what = '', todo = ''] = error.message.split(/(?<=\.) (?=Run:|Upgrade)| \((?=docs)|\)$/)
  return [
    {
      code: 'schema-version',
      severity: 'alert',
      what,
      consequence: 'Processes of this version cannot start as this role.',
      todo,
    },
  ]
}

function inWords({ severity, what, consequence, todo }: Finding): string {
  const lines = [`${severity.padEnd(7)}  ${what}`, consequence, todo].filter((line) => line !== '')
  return lines.join('\n         ')
}
