/** What the doctor says: one finding for each thing that it looked at. */
import type { Query } from '../database.js'

/** alert: members are at risk now, or this role cannot do what it is for. warning: they will be, or nobody would see it. */
export type Severity = 'ok' | 'note' | 'warning' | 'alert'

export interface Finding {
  /** Stable, for programs: 'no-sweeper'. */
  readonly code: string
  readonly severity: Severity
  readonly what: string
  /** What follows from it; empty when it is well. */
  readonly consequence: string
  /** What to do; empty when there is nothing to do. */
  readonly todo: string
}

export interface Check {
  /** The code of its findings, or the beginning of them. */
  readonly code: string
  run(query: Query): Promise<readonly Finding[]>
}

export function ok(code: string, what: string): Finding {
  return { code, severity: 'ok', what, consequence: '', todo: '' }
}

/** 1536 as '1.5 KiB'. */
export function size(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  const unit = bytes < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10))
  const value = bytes / 1024 ** unit
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[unit] ?? ''}`
}
