/** Stays and leader terms over time, and the control that says which time the rest of the page shows. */
import { timeTicks } from 'd3-time'
import type { TargetedMouseEvent } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import type { Timeline } from '../src/web/answers.js'
import { path, useAnswer } from './asking.js'
import { Curve } from './curve.js'
import { Lanes } from './lanes.js'
import { inputTime, localTime, tickLabel, utc } from './time.js'
import { type ChangeView, SPANS, type View } from './view.js'

/** The answer covers the present again when the window has moved by this part of its length. */
const MOVES = 60
const TICKS = 8
/** The slider's steps: about one for each pixel. */
const STEPS = 1_000

export interface TimelineProps {
  readonly view: View
  readonly changeView: ChangeView
  readonly nowMs: number
  readonly version: string | undefined
}

/** A share of the window, in percent of its width. */
export type Place = (ms: number) => number

export function TimelineSection({ view, changeView, nowMs, version }: TimelineProps) {
  const { cluster, spanMs, endMs, atMs } = view
  const toMs = endMs ?? nowMs
  const fromMs = toMs - spanMs
  const step = spanMs / MOVES
  const askedTo = endMs ?? Math.ceil(nowMs / step) * step
  const url = path('timeline', { cluster, from: Math.max(0, askedTo - spanMs - step), to: askedTo })
  const { answer } = useAnswer<Timeline>(url, { version: endMs === undefined ? version : undefined })
  const place: Place = (ms) => (100 * (ms - fromMs)) / spanMs

  const look = (ms: number | undefined): void => {
    const isNow = ms === undefined || ms >= nowMs
    changeView(isNow ? { atMs: undefined, endMs: undefined } : { atMs: ms, endMs: endMs ?? toMs })
  }
  const move = (direction: number): void => {
    const end = toMs + (direction * spanMs) / 2
    changeView({ endMs: end >= nowMs ? undefined : end })
  }

  // For a pointer. The slider does the same for everybody.
  const onClick = ({ currentTarget, target, clientX }: TargetedMouseEvent<HTMLElement>): void => {
    const area = currentTarget.querySelector('.lines')?.getBoundingClientRect()
    if (area === undefined || target instanceof HTMLInputElement || clientX < area.left) return
    look(fromMs + ((clientX - area.left) / area.width) * spanMs)
  }

  return (
    <section class="timeline" aria-labelledby="timeline">
      <div class="section-bar">
        <h2 id="timeline">Timeline</h2>
        <div class="controls">
          <button type="button" onClick={() => move(-1)} title="Half a window back" aria-label="Earlier">
            ◀
          </button>
          <select
            aria-label="Length of the timeline"
            value={spanMs}
            onChange={({ currentTarget }) => changeView({ spanMs: Number(currentTarget.value) })}
          >
            {SPANS.map(([label, ms]) => (
              <option key={ms} value={ms}>
                {label}
              </option>
            ))}
          </select>
          <button
            type="button"
            onClick={() => move(1)}
            disabled={endMs === undefined}
            title="Half a window forward"
            aria-label="Later"
          >
            ▶
          </button>
          <JumpTo ms={atMs} {...{ nowMs, spanMs, changeView }} />
        </div>
      </div>
      <div class="plot" onClick={onClick}>
        <Axis {...{ fromMs, toMs, place }} />
        <div class="row scrubber">
          <span class="label muted">Look at</span>
          <input
            type="range"
            aria-label="The time that is looked at"
            aria-valuetext={atMs === undefined ? 'now' : localTime(atMs, nowMs)}
            title={utc(atMs ?? toMs)}
            min={0}
            max={STEPS}
            value={Math.round(((atMs === undefined ? 100 : place(atMs)) * STEPS) / 100)}
            onInput={({ currentTarget }) => {
              const share = Number(currentTarget.value) / STEPS
              look(share === 1 && endMs === undefined ? undefined : fromMs + share * spanMs)
            }}
          />
        </div>
        {answer && <Curve timeline={answer} {...{ place, fromMs, toMs }} />}
        {answer && (
          <Lanes timeline={answer} {...{ place, nowMs, fromMs, toMs }} withCluster={cluster === undefined} />
        )}
        <Lines {...{ fromMs, toMs, place, atMs }} />
      </div>
      {answer?.total === 0 && <p class="empty">Nobody was a member in this time.</p>}
      {answer && answer.total > answer.stays.length && (
        <p class="note">
          Shown are {answer.stays.length} of the {answer.total} stays in this time: the present leaders, and
          those that joined or left last. The curve and the leaders count all of them.
        </p>
      )}
      <Legend />
    </section>
  )
}

interface JumpToProps {
  readonly ms: number | undefined
  readonly nowMs: number
  readonly spanMs: number
  readonly changeView: ChangeView
}

function JumpTo({ ms, nowMs, spanMs, changeView }: JumpToProps) {
  const shown = ms === undefined ? '' : inputTime(ms)
  const [text, setText] = useState(shown)
  const input = useRef<HTMLInputElement>(null)
  useEffect(() => {
    if (document.activeElement !== input.current) setText(shown)
  }, [shown])
  const onChange = (value: string): void => {
    setText(value)
    const atMs = Date.parse(value)
    if (Number.isNaN(atMs) || atMs < 0 || atMs >= nowMs) return
    const endMs = atMs + spanMs / 2
    changeView({ atMs, endMs: Math.min(endMs, nowMs) })
  }
  return (
    <label class="jump">
      <span>Time</span>
      <input
        ref={input}
        type="datetime-local"
        step={1}
        value={text}
        max={inputTime(nowMs)}
        onInput={({ currentTarget }) => onChange(currentTarget.value)}
      />
    </label>
  )
}

interface AxisProps {
  readonly fromMs: number
  readonly toMs: number
  readonly place: Place
}

function ticks({ fromMs, toMs }: Pick<AxisProps, 'fromMs' | 'toMs'>): Date[] {
  return timeTicks(new Date(fromMs), new Date(toMs), TICKS)
}

function Axis({ fromMs, toMs, place }: AxisProps) {
  const hasRoom = (date: Date): boolean => place(date.getTime()) > 1 && place(date.getTime()) < 98
  return (
    <div class="row axis" aria-hidden="true">
      <span class="label" />
      <div class="track">
        {ticks({ fromMs, toMs })
          .filter(hasRoom)
          .map((date) => (
            <span key={date.getTime()} class="tick" style={{ left: `${String(place(date.getTime()))}%` }}>
              {tickLabel(date)}
            </span>
          ))}
      </div>
    </div>
  )
}

function Lines({ fromMs, toMs, place, atMs }: AxisProps & { readonly atMs: number | undefined }) {
  const isIn = atMs !== undefined && atMs >= fromMs && atMs <= toMs
  return (
    <div class="lines" aria-hidden="true">
      {ticks({ fromMs, toMs }).map((date) => (
        <span key={date.getTime()} style={{ left: `${String(place(date.getTime()))}%` }} />
      ))}
      {isIn && <b class="at" style={{ left: `${String(place(atMs))}%` }} />}
    </div>
  )
}

const LEGEND = [
  ['here', 'still there'],
  ['deregistered', 'deregistered'],
  ['crashed', 'crashed'],
  ['expired', 'expired'],
  ['removed', 'removed or superseded'],
  ['term', 'leader'],
] as const

function Legend() {
  return (
    <ul class="legend" aria-label="Colours of the timeline">
      {LEGEND.map(([kind, label]) => (
        <li key={kind}>
          <span class={`swatch ${kind}`} aria-hidden="true" /> {label}
        </li>
      ))}
    </ul>
  )
}
