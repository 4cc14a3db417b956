import { begin } from '../../postgres/connection/settings.js'
import { schemaName } from '../../postgres/options.js'
import { type Command, CONNECTION_HELP } from '../command.js'
import { BOUNDS, opened } from '../database.js'
import { inOneLine } from '../visible.js'
import { diagnose } from './diagnose.js'
import type { Finding, Severity } from './finding.js'
import { hearingOf } from './hearing.js'

/** For whoever watches: something needs somebody now. */
const ALERT = 3

export const doctorCommand: Command = {
  summary: 'what is wrong, what follows from it, and what to do',
  help: `Usage: pg-membership doctor [options]

Looks at the schema, the connection, the members and the server, and changes nothing.
Each finding has its consequence and what to do. A reader's role is enough; a member of pg_monitor sees more.
Exit code 3 if there is an alert, for a monitor.

${CONNECTION_HELP}`,
  options: {},
  maxPositionals: 0,
  connects: true,
  run(args) {
    return opened(args, async (client, query) => {
      const notify = (statement: string) => opened(args, (other) => other.query(statement))
      const hearing = hearingOf(client, notify)
      // Awaited by the check, which reports a failure. No transaction may begin before it is over.
      await hearing.catch(() => undefined)
      await client.query(begin('read only', BOUNDS))
      const findings = await diagnose({ query, schema: schemaName(args.text('schema')), hearing })
      return {
        text: args.flag('json')
          ? JSON.stringify(findings, null, 2)
          : findings.map((finding) => shown(finding)).join('\n'),
        exitCode: findings.some(({ severity }) => severity === 'alert') ? ALERT : 0,
      }
    })
  },
}

const LABELS: Readonly<Record<Severity, string>> = {
  alert: 'ALERT',
  warning: 'WARNING',
  note: 'note',
  ok: 'ok',
}

function shown({ code, severity, what, consequence, todo }: Finding): string {
  const lines = [`${LABELS[severity].padEnd(7)}  ${code}: ${inOneLine(what)}`]
  for (const line of [consequence, todo]) if (line) lines.push(`         ${inOneLine(line)}`)
  return lines.join('\n')
}
