/** Who is a member now, or was at a time: a table in pages, so that 5,000 members cost no more than 50. */
import { useEffect, useMemo, useState } from 'preact/hooks'
import { inOneLine } from '../src/cli/visible.js'
import type { MemberRow, Members } from '../src/web/answers.js'
import { Preview } from './data.js'
import { MemberDialog } from './member-dialog.js'
import { age, localTime, utc } from './time.js'
import type { ChangeView, View } from './view.js'

const PAGE = 50

export interface MemberTableProps {
  readonly view: View
  readonly changeView: ChangeView
  readonly nowMs: number
  readonly members: Members | undefined
  /** What is shown is the answer to what is asked. */
  readonly isCurrent: boolean
}

type Order = 'token' | 'heartbeat'

export function MemberTable({ view, changeView, nowMs, members, isCurrent }: MemberTableProps) {
  const { cluster, atMs } = view
  const [filter, setFilter] = useState('')
  const [order, setOrder] = useState<Order>('token')
  const [page, setPage] = useState(0)
  const [open, setOpen] = useState<MemberRow>()
  const rows = useMemo(() => chosen(members?.members ?? [], filter, order), [members, filter, order])
  useEffect(() => setPage(0), [filter, order, cluster, atMs])
  // While the answer about another time is on its way, the old one is shown as it was.
  const shownAtMs = members?.atMs ?? undefined
  const isPast = shownAtMs !== undefined
  const first = Math.min(page, Math.max(0, Math.ceil(rows.length / PAGE) - 1)) * PAGE
  const shown = rows.slice(first, first + PAGE)
  const listed = members?.members.length ?? 0

  return (
    <section class={`members${isCurrent ? '' : ' stale'}`} aria-labelledby="members">
      <div class="section-bar">
        <h2 id="members">
          Members <span class="count">{members?.total ?? ''}</span>
        </h2>
        <label class="filter">
          <span class="hidden">Filter members by data, id or session</span>
          <input
            type="search"
            placeholder="Filter by data, id, session"
            value={filter}
            onInput={({ currentTarget }) => setFilter(currentTarget.value)}
          />
        </label>
      </div>
      {shown.length > 0 && (
        <table role="table">
          <thead role="rowgroup">
            <tr role="row">
              {cluster === undefined && (
                <th role="columnheader" class="cluster-cell">
                  Cluster
                </th>
              )}
              <th role="columnheader">Data</th>
              <th role="columnheader" class="id-cell">
                Member
              </th>
              <th
                role="columnheader"
                class="number here-cell"
                aria-sort={order === 'token' ? 'ascending' : undefined}
              >
                <button type="button" onClick={() => setOrder('token')} title="Oldest registration first">
                  Here for
                  {order === 'token' && <span aria-hidden="true"> ▾</span>}
                </button>
              </th>
              {!isPast && (
                <th
                  role="columnheader"
                  class="number heartbeat-cell"
                  aria-sort={order === 'heartbeat' ? 'descending' : undefined}
                >
                  <button type="button" onClick={() => setOrder('heartbeat')} title="Longest silence first">
                    Heartbeat{order === 'heartbeat' && <span aria-hidden="true"> ▾</span>}
                  </button>
                </th>
              )}
            </tr>
          </thead>
          <tbody role="rowgroup">
            {shown.map((row) => (
              <Row
                key={row.key}
                {...{ row, nowMs: shownAtMs ?? nowMs, isPast }}
                onCluster={cluster === undefined ? () => changeView({ cluster: row.cluster }) : undefined}
                onOpen={() => setOpen(row)}
              />
            ))}
          </tbody>
        </table>
      )}
      {members !== undefined && shown.length === 0 && <Empty {...{ filter, view, listed }} />}
      {rows.length > PAGE && (
        <nav class="pages" aria-label="Pages of members">
          <button type="button" disabled={first === 0} onClick={() => setPage(first / PAGE - 1)}>
            Previous
          </button>
          <span>
            {first + 1} to {first + shown.length} of {rows.length}
          </span>
          <button
            type="button"
            disabled={first + PAGE >= rows.length}
            onClick={() => setPage(first / PAGE + 1)}
          >
            Next
          </button>
        </nav>
      )}
      {members !== undefined && members.total > listed && (
        <p class="note">
          Listed are the first {listed} of {members.total} members: choose a cluster to see fewer.
        </p>
      )}
      {open && (
        <MemberDialog {...{ nowMs }} atMs={shownAtMs} member={open} onClose={() => setOpen(undefined)} />
      )}
    </section>
  )
}

function chosen(rows: readonly MemberRow[], filter: string, order: Order): readonly MemberRow[] {
  const wanted = filter.trim().toLowerCase()
  const matches = ({ data, id, session }: MemberRow): boolean =>
    [data, id, session ?? ''].some((text) => text.toLowerCase().includes(wanted))
  const found = wanted === '' ? rows : rows.filter(matches)
  if (order === 'token') return found
  return [...found].sort((a, b) => (a.heartbeatAtMs ?? 0) - (b.heartbeatAtMs ?? 0))
}

interface RowProps {
  readonly row: MemberRow
  readonly nowMs: number
  readonly isPast: boolean
  readonly onCluster: (() => void) | undefined
  readonly onOpen: () => void
}

function Row({ row, nowMs, isPast, onCluster, onOpen }: RowProps) {
  const silentMs = Math.max(0, nowMs - (row.heartbeatAtMs ?? nowMs))
  return (
    <tr role="row" class="arrived">
      {onCluster && (
        <td role="cell" class="cluster-cell">
          <button type="button" class="link" onClick={onCluster} title="Show this cluster only">
            {inOneLine(row.cluster)}
          </button>
        </td>
      )}
      <td role="cell" class="data-cell">
        <Preview text={row.data} isCut={row.isCut} />
      </td>
      <td role="cell" class="id-cell">
        <button
          type="button"
          class="link id"
          onClick={onOpen}
          title={`${row.id}: show all about this member`}
        >
          <span class="hidden">Member </span>
          {shortId(row.id)}
        </button>
        {row.leads && (
          <span class="badge leader" title="It has the lowest token of its cluster">
            leader
          </span>
        )}
      </td>
      <td role="cell" class="number here-cell" title={`since ${utc(row.registeredAtMs)}`}>
        {age(nowMs - row.registeredAtMs)}
      </td>
      {!isPast && (
        <td role="cell" class="number heartbeat-cell">
          <Heartbeat silentMs={silentMs} ttlMs={row.ttlMs ?? 1} />
        </td>
      )}
    </tr>
  )
}

/** Ids that libraries make begin with the time: their ends tell them apart. */
export function shortId(id: string): string {
  return `…${id.slice(-8)}`
}

function Heartbeat({ silentMs, ttlMs }: { readonly silentMs: number; readonly ttlMs: number }) {
  const isOverdue = silentMs > ttlMs
  const state = isOverdue ? 'overdue' : silentMs > ttlMs / 2 ? 'late' : 'fresh'
  return (
    <span class={`heartbeat ${state}`} title={`ttl ${age(ttlMs)}`}>
      {age(silentMs)}
      {isOverdue ? (
        <span class="badge bad">overdue</span>
      ) : (
        <>
          <span> ago</span>
          <span class="gauge" aria-hidden="true">
            <span style={{ width: `${String((100 * silentMs) / ttlMs)}%` }} />
          </span>
        </>
      )}
    </span>
  )
}

interface EmptyProps {
  readonly filter: string
  readonly view: View
  readonly listed: number
}

function Empty({ filter, view: { cluster, atMs }, listed }: EmptyProps) {
  if (listed > 0) return <p class="empty">No member matches “{filter}”.</p>
  if (atMs !== undefined) return <p class="empty">Nobody was a member at {localTime(atMs, Date.now())}.</p>
  return (
    <p class="empty">
      Nobody is a member {cluster === undefined ? '' : `of ${inOneLine(cluster)} `}now. A member appears here
      as soon as a process calls <code>membership.register()</code>.
    </p>
  )
}
