/** A weight that a user's function has told, checked. @throws RangeError, or TypeError for what is no number. */
export function checkedWeight(weight: unknown): number {
  if (typeof weight !== 'number') throw new TypeError(`A weight must be a number, not ${typeof weight}`)
  if (weight >= 0 && weight < Infinity) return weight
  throw new RangeError(`A weight must be a finite number from 0, not ${String(weight)}`)
}
