/** What changed, newest first, why, and by whom where that is not the process itself. */
import { doneBy } from '../src/cli/done-by.js'
import { inOneLine, visible } from '../src/cli/visible.js'
import type { ChangeRow, Changes } from '../src/web/answers.js'
import { Preview } from './data.js'
import { shortId } from './member-table.js'
import { Moment } from './time.js'

export const FIRST_CHANGES = 100
const MAX_CHANGES = 900

export interface FeedProps {
  readonly changes: Changes | undefined
  readonly nowMs: number
  readonly atMs: number | undefined
  readonly withCluster: boolean
  readonly isCurrent: boolean
  readonly onMore: () => void
}

export function Feed({ changes, nowMs, atMs, withCluster, isCurrent, onMore }: FeedProps) {
  const rows = changes?.changes ?? []
  return (
    <section class={`feed${isCurrent ? '' : ' stale'}`} aria-labelledby="changes">
      <div class="section-bar">
        <h2 id="changes">Changes</h2>
        {atMs !== undefined && (
          <span class="muted">
            up to <Moment ms={atMs} nowMs={nowMs} />
          </span>
        )}
      </div>
      <ol class="scroll" tabIndex={0} aria-labelledby="changes">
        {rows.map((row) => (
          <Change key={`${row.cluster}/${String(row.revision)}`} {...{ row, nowMs, withCluster }} />
        ))}
      </ol>
      {changes !== undefined && rows.length === 0 && (
        <p class="empty">The log has no changes{atMs === undefined ? '' : ' before that time'}.</p>
      )}
      {changes?.more &&
        (rows.length < MAX_CHANGES ? (
          <button type="button" class="more" onClick={onMore}>
            Show older changes
          </button>
        ) : (
          <p class="note">For older changes, look at an earlier time in the timeline.</p>
        ))}
    </section>
  )
}

function Change({
  row,
  nowMs,
  withCluster,
}: {
  readonly row: ChangeRow
  readonly nowMs: number
  readonly withCluster: boolean
}) {
  const by = doneBy(row)
  return (
    <li>
      <Moment ms={row.atMs} nowMs={nowMs} />
      <span class={`change ${row.kind === 'left' ? row.reason : row.kind}`}>
        {row.kind === 'left' ? `left: ${row.reason}` : row.kind}
      </span>
      <span
        class="id muted"
        title={`${row.id}, token ${String(row.token)}, revision ${String(row.revision)}`}
      >
        {shortId(row.id)}
      </span>
      <span class="who">
        {withCluster && <span class="muted">{inOneLine(row.cluster)} </span>}
        {row.data !== null && <Preview text={row.data} isCut={row.isCut} />}
      </span>
      {by !== '' && <span class="by">{visible(by)}</span>}
    </li>
  )
}
