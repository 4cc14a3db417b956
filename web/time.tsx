/** Times are the server's. They are shown in the zone of who looks, with UTC when the pointer rests on them. */
import { useEffect, useState } from 'preact/hooks'

/** 2 units at most: 0.4s, 4.2s, 13s, 2m 13s, 3h 4m, 12d 5h. Negative ages are none: clocks differ by a little. */
export function age(ms: number): string {
  const s = Math.max(0, ms) / 1000
  if (s < 9.95) return `${s.toFixed(1)}s`
  if (s < 59.5) return `${String(Math.round(s))}s`
  if (s < 3600) return two(s, 60, 'm', 1, 's')
  if (s < 86_400) return two(s, 3600, 'h', 60, 'm')
  return two(s, 86_400, 'd', 3600, 'h')
}

function two(s: number, large: number, largeUnit: string, small: number, smallUnit: string): string {
  const rest = Math.floor((s % large) / small)
  return `${String(Math.floor(s / large))}${largeUnit}${rest === 0 ? '' : ` ${String(rest)}${smallUnit}`}`
}

const TIME = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium', hourCycle: 'h23' })
const DATE_TIME = new Intl.DateTimeFormat(undefined, {
  dateStyle: 'medium',
  timeStyle: 'medium',
  hourCycle: 'h23',
})

export function utc(ms: number): string {
  return new Date(ms).toISOString().replace('T', ' ').replace('Z', ' UTC')
}

function isSameDay(a: number, b: number): boolean {
  return new Date(a).toDateString() === new Date(b).toDateString()
}

export function localTime(ms: number, nowMs: number): string {
  return (isSameDay(ms, nowMs) ? TIME : DATE_TIME).format(ms)
}

/** A moment; without its date if that is today's. */
export function Moment({ ms, nowMs }: { readonly ms: number; readonly nowMs: number }) {
  return (
    <time dateTime={new Date(ms).toISOString()} title={utc(ms)}>
      {localTime(ms, nowMs)}
    </time>
  )
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' })
const DAY = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short' })

/** Beside a line of the time axis: as short as it can be. */
export function tickLabel(date: Date): string {
  if (date.getSeconds() !== 0) return TIME.format(date)
  if (date.getHours() !== 0 || date.getMinutes() !== 0) return CLOCK.format(date)
  return DAY.format(date)
}

/** For <input type="datetime-local">: the local time, which has no zone there. */
export function inputTime(ms: number): string {
  const date = new Date(ms)
  return new Date(ms - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19)
}

/** Without a newer answer, time stands still after this: nobody is late because we hear nothing. */
const MAX_AHEAD_MS = 5_000

/** The server's time, estimated, once a second: `heardMs` was its time at `receivedAt` of performance.now(). */
export function useNow(heardMs: number | undefined, receivedAt: number): number | undefined {
  const [, tick] = useState(0)
  useEffect(() => {
    const timer = setInterval(() => tick((n) => n + 1), 1_000)
    return () => clearInterval(timer)
  }, [])
  return heardMs === undefined ? undefined : heardMs + Math.min(MAX_AHEAD_MS, performance.now() - receivedAt)
}
