import type { Query } from '../../postgres/query.js'
import type { Hearing } from './hearing.js'

/** `alert`: somebody must act now. `warning`: soon. `note`: worth knowing, or what this role cannot see. */
export type Severity = 'ok' | 'note' | 'warning' | 'alert'

export interface Finding {
  /** Stays the same between versions, for programs. */
  readonly code: string
  readonly severity: Severity
  readonly what: string
  /** Empty where all is well. */
  readonly consequence: string
  readonly todo: string
}

/** Above these there is a finding. */
export const LIMITS = {
  logBytes: 5 * 2 ** 30,
  /** Of the notification queue, from 0 to 1. */
  queueShare: 0.1,
  /** Of max_connections. */
  connectionShare: 0.8,
  transactionMs: 300_000,
}
export type Limits = Readonly<typeof LIMITS>

export interface Patient {
  readonly query: Query
  readonly schema: string
  /** Whether the connection hears notifications; undefined: this was not tried. */
  readonly hearing: Promise<Hearing> | undefined
  /** Default LIMITS. */
  readonly limits?: Limits
}

export type Check = (patient: Patient) => Promise<Finding[]>

export function ok(code: string, what: string): Finding {
  return { code, severity: 'ok', what, consequence: '', todo: '' }
}

/** At most five names, and how many there are beyond. */
export function listed(names: readonly string[]): string {
  const more = names.length > 5 ? ` and ${String(names.length - 5)} more` : ''
  return names.slice(0, 5).join(', ') + more
}
