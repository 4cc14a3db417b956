/** What the demo and its processes tell each other. Nothing here is part of the library. */
import type { Member } from 'pg-membership'

/** From a process to the demo. */
export type Report =
  | { readonly kind: 'watching'; readonly id: string }
  | { readonly kind: 'sees'; readonly revision: number; readonly members: readonly Member[] }
  | { readonly kind: 'lost'; readonly error: string; readonly reason: string }

/** From the demo to a process. */
export type Command = { readonly kind: 'register' } | { readonly kind: 'set state'; readonly state: string }

/** What the members of this cluster carry. To the library, data is any string; JSON is the usual choice. */
export interface Data {
  readonly name: string
  readonly state: string
}

export function dataOf(member: Member): Data {
  return JSON.parse(member.data) as Data
}
