/** Cursors: positions as users hold them, in a database of their own, in JSON, across restarts. */
import type { Cursor } from '../api/cursor.js'
import { refuse } from './options.js'
import { type Position, positionOf } from './store.js'

/** A revision and its stamp. Revision 0 has none: all histories begin there. */
const SHAPE = /^(?:0\.|([1-9]\d{0,15})\.([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}))$/

export function cursorOf({ revision, stamp }: Position): Cursor {
  return `${String(revision)}.${positionOf(revision, stamp).stamp}`
}

/** As given by any caller, typed or not. */
export function positionAt(since: unknown): Position {
  const found = typeof since === 'string' ? SHAPE.exec(since) : null
  const revision = Number(found?.[1] ?? 0)
  if (found === null || !Number.isSafeInteger(revision)) {
    return refuse('since', since, 'be the cursor of a snapshot or of a change')
  }
  return positionOf(revision, found[2] ?? '')
}
