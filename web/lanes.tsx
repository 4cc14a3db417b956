/** One lane for each member with its stays, under its cluster with the terms of the leaders. */
import { useMemo } from 'preact/hooks'
import { inOneLine } from '../src/cli/visible.js'
import type { StayRow, Term, Timeline } from '../src/web/answers.js'
import { inShort } from './json.js'
import { shortId } from './member-table.js'
import { age, localTime } from './time.js'
import type { Place } from './timeline.js'

export interface Lane {
  readonly id: string
  readonly label: string
  /** Oldest first. */
  readonly stays: readonly StayRow[]
}

export interface Group {
  readonly cluster: string
  readonly lanes: readonly Lane[]
  readonly terms: readonly Term[]
}

/** By cluster. */
export function groupsOf({ stays, terms }: Pick<Timeline, 'stays' | 'terms'>): Group[] {
  const clusters = new Map<string, Map<string, StayRow[]>>()
  for (const stay of stays) {
    const members = clusters.get(stay.cluster) ?? new Map<string, StayRow[]>()
    clusters.set(stay.cluster, members)
    const own = members.get(stay.id)
    if (own === undefined) members.set(stay.id, [stay])
    else own.push(stay)
  }
  return [...clusters].map(([cluster, members]) => ({
    cluster,
    lanes: [...members].map(([id, own]) => ({ id, label: labelOf(own, id), stays: own })).sort(inOrder),
    terms: terms.filter((term) => term.cluster === cluster),
  }))
}

function labelOf(stays: readonly StayRow[], id: string): string {
  const label = inShort(stays.at(-1)?.data ?? '')
  return label === '' ? shortId(id) : label
}

/** Who is there comes first, by token as everywhere; then who is gone, the last one first. */
function inOrder(a: Lane, b: Lane): number {
  const [lastA, lastB] = [a.stays.at(-1), b.stays.at(-1)]
  const [goneA, goneB] = [lastA?.leftAtMs ?? Infinity, lastB?.leftAtMs ?? Infinity]
  return goneA === goneB ? (lastA?.token ?? 0) - (lastB?.token ?? 0) : goneA > goneB ? -1 : 1
}

export interface LanesProps {
  readonly timeline: Timeline
  readonly place: Place
  readonly nowMs: number
  readonly fromMs: number
  readonly toMs: number
  readonly withCluster: boolean
}

export function Lanes({ timeline, place, nowMs, fromMs, toMs, withCluster }: LanesProps) {
  const groups = useMemo(() => groupsOf(timeline), [timeline])
  const span = { place, nowMs, fromMs, toMs }
  return (
    <div class="lanes scroll" tabIndex={0} role="group" aria-label="Stays of members">
      {groups.map(({ cluster, lanes, terms }) => (
        <ul key={cluster} aria-label={inOneLine(cluster)}>
          <li class="row leaders">
            <span class="label">{withCluster ? <bdi>{inOneLine(cluster)}</bdi> : 'Leader'}</span>
            <span class="track">
              {terms.map((term) => (
                <Bar
                  key={term.token}
                  {...span}
                  kind="term"
                  from={term.fromMs}
                  to={term.toMs}
                  text={`Leader ${shortId(term.id)}`}
                />
              ))}
            </span>
          </li>
          {lanes.map(({ id, label, stays }) => (
            <li class="row" key={id}>
              <span class="label" title={id}>
                <bdi>{inOneLine(label)}</bdi>
              </span>
              <span class="track">
                {stays.map((stay) => (
                  <Bar
                    key={stay.key}
                    {...span}
                    kind={kindOf(stay)}
                    from={stay.joinedAtMs}
                    to={stay.leftAtMs}
                    text={stay.reason ?? 'Still there'}
                  />
                ))}
              </span>
            </li>
          ))}
        </ul>
      ))}
    </div>
  )
}

function kindOf({ reason }: StayRow): string {
  return reason === null ? 'here' : reason === 'superseded' ? 'removed' : reason
}

interface BarProps {
  readonly place: Place
  readonly nowMs: number
  readonly fromMs: number
  readonly toMs: number
  readonly kind: string
  readonly from: number
  readonly to: number | null
  readonly text: string
}

/** Cut at the window's edges; a short one is drawn wide enough to be seen. */
function Bar({ place, nowMs, fromMs, toMs, kind, from, to, text }: BarProps) {
  const end = to ?? nowMs
  if (end < fromMs || from > toMs) return null
  const [left, right] = [Math.max(0, place(from)), Math.min(100, place(end))]
  const said = `${text}, ${localTime(from, nowMs)} to ${to === null ? 'now' : localTime(to, nowMs)}, ${age(end - from)}`
  const edges = `${from < fromMs ? ' goes-before' : ''}${end > toMs ? ' goes-after' : ''}`
  return (
    <span
      class={`bar ${kind}${edges}`}
      title={said}
      style={{ left: `${String(left)}%`, width: `${String(right - left)}%` }}
    >
      <span class="hidden">{said}. </span>
    </span>
  )
}
