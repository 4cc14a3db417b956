/** What the doctor found: trouble first, and what is well behind a line that opens. */
import { inOneLine } from '../src/cli/visible.js'
import type { Finding } from '../src/web/answers.js'
import type { AskError } from './asking.js'

const RANK = { alert: 0, warning: 1, note: 2, ok: 3 } as const

export interface FindingListProps {
  readonly findings: readonly Finding[]
  readonly error: AskError | undefined
}

export function FindingList({ findings, error }: FindingListProps) {
  const bad = findings
    .filter(({ severity }) => severity !== 'ok')
    .sort((a, b) => RANK[a.severity] - RANK[b.severity])
  const good = findings.filter(({ severity }) => severity === 'ok')
  if (findings.length === 0 && error === undefined) return null
  return (
    <section class="findings" aria-labelledby="findings">
      <div class="section-bar">
        <h2 id="findings">
          Doctor <span class="count">{bad.length > 0 ? bad.length : ''}</span>
        </h2>
      </div>
      {error && <p class="empty">The doctor could not look: {inOneLine(error.message)}.</p>}
      <ul>
        {bad.map((finding) => (
          <li key={finding.code + finding.what}>
            <span class={`badge ${finding.severity}`}>{finding.severity}</span>{' '}
            <strong>{inOneLine(finding.what)}</strong>
            <p>{inOneLine(finding.consequence)}</p>
            <p class="todo">{inOneLine(finding.todo)}</p>
          </li>
        ))}
      </ul>
      {good.length > 0 && (
        <details>
          <summary>
            {good.length} {good.length === 1 ? 'thing is as it' : 'things are as they'} should be
          </summary>
          <ul>
            {good.map(({ code, what }) => (
              <li key={code + what}>{inOneLine(what)}</li>
            ))}
          </ul>
        </details>
      )}
    </section>
  )
}
