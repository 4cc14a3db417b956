/** Asks the server of this page. */
import { useEffect, useRef, useState } from 'preact/hooks'
import type { Refusal } from '../src/web/answers.js'

/** With a message for whoever looks at the page, without a full stop. */
export class AskError extends Error {}

/** Undefined values are left out. */
export function path(name: string, values: Readonly<Record<string, string | number | undefined>>): string {
  const search = new URLSearchParams()
  for (const [key, value] of Object.entries(values)) if (value !== undefined) search.set(key, String(value))
  return `api/${name}?${search.toString()}`
}

async function ask<T extends object>(url: string, signal: AbortSignal): Promise<T> {
  const response = await fetch(url, { signal, cache: 'no-store' }).catch((error: unknown) => {
    throw signal.aborted
      ? error
      : new AskError(
          'The server of this page does not answer. Look whether pg-membership web still runs, and start it again',
        )
  })
  const answer = (await response.json().catch((error: unknown) => {
    // Nobody waits for it any more. Half an answer is none.
    if (signal.aborted) throw error
    return { error: response.ok ? 'The answer of the server was cut off' : response.statusText }
  })) as T | Refusal
  if (isRefusal(answer)) throw new AskError(answer.error)
  return answer
}

function isRefusal(answer: object | Refusal): answer is Refusal {
  return 'error' in answer
}

export interface Asked<T> {
  /** The newest answer, perhaps to an older question: what is shown stays until there is something newer. */
  readonly answer: T | undefined
  /** What `answer` answers. */
  readonly url: string | undefined
  /** Of the newest question. */
  readonly error: AskError | undefined
  /** When the answer came, by performance.now(). */
  readonly receivedAt: number
}

export interface AskOptions {
  /** Asks again so long after an answer; default: never. */
  readonly everyMs?: number
  /** Asks again when this changes. */
  readonly version?: string | undefined
}

const NOTHING = { answer: undefined, url: undefined, error: undefined, receivedAt: 0 }
const RETRY_MS = 2_000
const SETTLE_MS = 100

/** undefined: asks nothing. While nobody sees the page, nothing is asked again. */
export function useAnswer<T extends object>(
  url: string | undefined,
  { everyMs = Infinity, version }: AskOptions = {},
): Asked<T> {
  const [asked, setAsked] = useState<Asked<T>>(NOTHING)
  const everyRef = useRef(everyMs)
  everyRef.current = everyMs
  useEffect(() => {
    if (url === undefined) return
    const stopped = new AbortController()
    let timer: number | undefined
    const run = async (): Promise<void> => {
      clearTimeout(timer)
      timer = undefined
      let waitMs = everyRef.current
      try {
        const answer = await ask<T>(url, stopped.signal)
        setAsked({ answer, url, error: undefined, receivedAt: performance.now() })
      } catch (error) {
        if (stopped.signal.aborted) return
        const trouble = error instanceof AskError ? error : new AskError(String(error))
        setAsked((before) => ({ ...before, error: trouble }))
        waitMs = Math.min(waitMs, RETRY_MS)
      }
      if (!document.hidden && !stopped.signal.aborted && waitMs < Infinity) {
        timer = setTimeout(() => void run(), waitMs)
      }
    }
    const onVisible = (): void => {
      if (!document.hidden && timer === undefined) void run()
    }
    // Who drags the slider asks where it stops.
    timer = setTimeout(() => void run(), SETTLE_MS)
    document.addEventListener('visibilitychange', onVisible)
    return () => {
      stopped.abort()
      clearTimeout(timer)
      document.removeEventListener('visibilitychange', onVisible)
    }
  }, [url, version])
  return asked
}
