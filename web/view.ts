/** What is looked at. It is kept in the address, so that a link or a reload shows the same. */
import { useCallback, useEffect, useState } from 'preact/hooks'

export interface View {
  /** undefined: all clusters. */
  readonly cluster: string | undefined
  readonly spanMs: number
  /** The end of the timeline; undefined: now. */
  readonly endMs: number | undefined
  /** The time at which members and changes are shown; undefined: now. */
  readonly atMs: number | undefined
}

export const SPANS: readonly (readonly [label: string, ms: number])[] = [
  ['5 minutes', 300_000],
  ['15 minutes', 900_000],
  ['1 hour', 3_600_000],
  ['6 hours', 21_600_000],
  ['24 hours', 86_400_000],
  ['7 days', 604_800_000],
  ['30 days', 2_592_000_000],
]
const DEFAULT_SPAN_MS = 900_000

export function viewOf(hash: string): View {
  const values = new URLSearchParams(hash.replace(/^#/, ''))
  const cluster = values.get('cluster') ?? ''
  const span = Number(values.get('span')) * 1000
  return {
    cluster: cluster === '' ? undefined : cluster,
    spanMs: SPANS.some(([, ms]) => ms === span) ? span : DEFAULT_SPAN_MS,
    endMs: time(values.get('end')),
    atMs: time(values.get('at')),
  }
}

export function hashOf({ cluster, spanMs, endMs, atMs }: View): string {
  const values = new URLSearchParams()
  if (cluster !== undefined) values.set('cluster', cluster)
  if (spanMs !== DEFAULT_SPAN_MS) values.set('span', String(spanMs / 1000))
  if (endMs !== undefined) values.set('end', new Date(endMs).toISOString())
  if (atMs !== undefined) values.set('at', new Date(atMs).toISOString())
  return `#${values.toString()}`
}

function time(text: string | null): number | undefined {
  const ms = Date.parse(text ?? '')
  return Number.isNaN(ms) || ms < 0 ? undefined : ms
}

export type ChangeView = (change: Partial<View>) => void

export function useView(): [View, ChangeView] {
  const [view, setView] = useState(() => viewOf(location.hash))
  useEffect(() => {
    const follow = (): void => setView(viewOf(location.hash))
    addEventListener('hashchange', follow)
    return () => removeEventListener('hashchange', follow)
  }, [])
  const change = useCallback((part: Partial<View>) => {
    setView((before) => {
      const after = { ...before, ...part }
      history.replaceState(null, '', hashOf(after))
      return after
    })
  }, [])
  return [view, change]
}
