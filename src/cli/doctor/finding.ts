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

export interface Patient {
  readonly query: Query
  readonly schema: string
  /** Whether the connection hears notifications; undefined: this was not tried. */
  readonly hearing: Promise<Hearing> | undefined
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
