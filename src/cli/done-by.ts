/** Who did it, and why, where that says something: of what the processes do by themselves it does not. */
export function doneBy(change: {
  readonly reason: string | null
  readonly by_role: string | null
  readonly note: string | null
}): string {
  if (change.note !== null) return `${change.by_role ?? '?'}: ${change.note}`
  return change.reason === 'removed' ? (change.by_role ?? '') : ''
}
