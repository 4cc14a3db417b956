/** How many members there were. */
import type { Timeline } from '../src/web/answers.js'
import type { Place } from './timeline.js'

const HEIGHT = 100

export interface CurveProps {
  readonly timeline: Timeline
  readonly place: Place
}

/** How many there were at the end of each part, after how many there were before the first. */
export function countsOf({ membersBefore, parts }: Pick<Timeline, 'membersBefore' | 'parts'>): number[] {
  const counts = [membersBefore]
  let count = membersBefore
  for (const { joined, left } of parts) counts.push((count += joined - left))
  return counts
}

export function Curve({ timeline, place }: CurveProps) {
  const counts = countsOf(timeline)
  const most = Math.max(1, ...counts)
  const { fromMs, toMs } = timeline
  const x = (n: number): number => place(fromMs + ((toMs - fromMs) * n) / (counts.length - 1))
  const y = (count: number): number => HEIGHT - (HEIGHT * count) / most
  // Steps: the number stays until somebody joins or leaves.
  const line = counts.map((count, n) => `H${x(n).toFixed(2)}V${y(count).toFixed(1)}`).join('')
  const area = `M${x(0).toFixed(2)} ${String(HEIGHT)}${line}H100V${String(HEIGHT)}Z`
  const [least, now] = [Math.min(...counts), counts.at(-1) ?? 0]
  return (
    <div class="row curve">
      <span class="label muted">
        Members <span class="count">max {most}</span>
      </span>
      <svg
        class="track"
        viewBox={`0 0 100 ${String(HEIGHT)}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={`Members over this time: at least ${String(least)}, at most ${String(Math.max(...counts))}, at the end ${String(now)}`}
      >
        <path d={area} />
      </svg>
    </div>
  )
}
