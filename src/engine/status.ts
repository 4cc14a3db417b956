/** Derives the mode of a cluster from four facts, and reports it when it changes. */
import type { Status } from '../api/status.js'
import type { Report } from './report.js'

interface Facts {
  /** There is a snapshot. */
  readonly loaded: boolean
  /** The database answered the last time it was asked. */
  readonly answering: boolean
  /** Announcements or hints arrive. undefined: not decided yet. */
  readonly hearing: boolean | undefined
  readonly closed: boolean
}

export class ClusterStatus {
  readonly #report: Report
  #facts: Facts = { loaded: false, answering: true, hearing: undefined, closed: false }
  #mode: Status['mode'] = 'connecting'
  #since = new Date().toISOString()
  #reportedMode: Status['mode'] = 'connecting'

  constructor(report: Report) {
    this.#report = report
  }

  note(facts: Partial<Facts>): void {
    this.#facts = { ...this.#facts, ...facts }
    const mode = modeOf(this.#facts)
    if (mode !== this.#mode) {
      this.#mode = mode
      this.#since = new Date().toISOString()
    }
    // The first load is often faster than LISTEN: a healthy start is not reported as polling.
    const isPassing = mode === 'polling' && this.#facts.hearing === undefined
    if (mode !== this.#reportedMode && !isPassing) this.#tell(mode)
  }

  at(reader: {
    readonly snapshot: { readonly revision: number } | undefined
    readonly ageMs: number | undefined
  }): Status {
    return Object.freeze({
      mode: this.#mode,
      since: this.#since,
      revision: reader.snapshot?.revision,
      ageMs: reader.ageMs,
      lastError: this.#report.lastError,
    })
  }

  #tell(mode: Status['mode']): void {
    this.#reportedMode = mode
    this.#report.publish('status', { mode })
    this.#report.log(mode === 'disconnected' ? 'warn' : 'info', { mode }, `Now ${mode}`)
  }
}

function modeOf({ loaded, answering, hearing, closed }: Facts): Status['mode'] {
  if (closed) return 'closed'
  if (!loaded) return 'connecting'
  if (!answering) return 'disconnected'
  return hearing === true ? 'listening' : 'polling'
}
