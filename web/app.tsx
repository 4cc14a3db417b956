/** The page: what is looked at, what was answered, and where it is shown. */
import { useEffect, useState } from 'preact/hooks'
import type { Changes, Findings, MemberRow, Members, Pulse } from '../src/web/answers.js'
import { path, useAnswer } from './asking.js'
import { Feed, FIRST_CHANGES } from './feed.js'
import { FindingList } from './findings.js'
import { Header } from './header.js'
import { MemberTable } from './member-table.js'
import { useNow } from './time.js'
import { TimelineSection } from './timeline.js'
import { useView } from './view.js'

const PULSE_MS = 1_000
/** With thousands of members, a browser should not be kept busy by heartbeats. */
const LARGE_PULSE_MS = 3_000
const LARGE = 1_000
const FINDINGS_MS = 30_000

export function App() {
  const [view, changeView] = useView()
  const { cluster, atMs } = view
  const [everyMs, setEveryMs] = useState(PULSE_MS)
  const [limit, setLimit] = useState(FIRST_CHANGES)

  const pulse = useAnswer<Pulse>(path('pulse', { cluster }), { everyMs })
  const version = pulse.answer?.version
  const isPast = atMs !== undefined
  // What is past does not change: only the present follows the version.
  const live = isPast ? undefined : version
  const membersUrl = path('members', { cluster, at: atMs })
  const changesUrl = path('changes', { cluster, at: atMs, limit })
  const members = useAnswer<Members>(version === undefined ? undefined : membersUrl, { version: live })
  const changes = useAnswer<Changes>(version === undefined ? undefined : changesUrl, { version: live })
  const findings = useAnswer<Findings>(version === undefined ? undefined : path('findings', {}), {
    everyMs: FINDINGS_MS,
  })

  const count = pulse.answer?.heartbeats.length ?? 0
  useEffect(() => setEveryMs(count > LARGE ? LARGE_PULSE_MS : PULSE_MS), [count])
  useEffect(() => setLimit(FIRST_CHANGES), [cluster, atMs])
  useEffect(() => {
    document.title = `${count} ${count === 1 ? 'member' : 'members'} · ${cluster ?? 'pg-membership'}`
  }, [count, cluster])

  const nowMs = useNow(pulse.answer?.nowMs, pulse.receivedAt)
  const error = pulse.error ?? members.error ?? changes.error

  return (
    <>
      <Header {...{ view, changeView, nowMs, error }} pulse={pulse} />
      {nowMs === undefined ? (
        <main class="first">{error === undefined && <p class="muted">Asking the database …</p>}</main>
      ) : (
        <main>
          <TimelineSection {...{ view, changeView, nowMs, version }} />
          <MemberTable
            {...{ view, changeView, nowMs }}
            members={heard(members.answer, pulse.answer)}
            isCurrent={members.url === membersUrl}
          />
          <div class="side">
            <FindingList findings={findings.answer?.findings ?? []} error={findings.error} />
            <Feed
              {...{ nowMs, atMs }}
              withCluster={cluster === undefined}
              changes={changes.answer}
              isCurrent={changes.url === changesUrl}
              onMore={() => setLimit((before) => before * 3)}
            />
          </div>
        </main>
      )}
    </>
  )
}

/** The members, with the newest heartbeats that were heard of. */
function heard(members: Members | undefined, pulse: Pulse | undefined): Members | undefined {
  if (members?.atMs !== null || pulse === undefined) return members
  const beats = new Map(pulse.heartbeats.map(({ key, atMs }) => [key, atMs]))
  const newest = (row: MemberRow): MemberRow => ({
    ...row,
    heartbeatAtMs: beats.get(row.key) ?? row.heartbeatAtMs,
  })
  return { ...members, members: members.members.map(newest) }
}
