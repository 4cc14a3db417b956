import type { Member } from './member.js'

/** One row of the event log. */
export interface Change {
  readonly kind: 'joined' | 'updated' | 'left'
  readonly member: Member
}
