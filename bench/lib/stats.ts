/** Medians, and how they are written. */
export interface Summary {
  readonly median: number
  readonly p99: number
  readonly max: number
  readonly count: number
}

export function summary(values: readonly number[]): Summary {
  if (values.length === 0) throw new Error('Nothing was measured')
  const sorted = values.toSorted((a, b) => a - b)
  const at = (share: number): number =>
    sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? NaN
  return { median: at(0.5), p99: at(0.99), max: at(1), count: sorted.length }
}

/** Three digits that mean something. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return String(value)
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3)
}
