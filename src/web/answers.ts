/** What the page is told, as JSON. Times are milliseconds since 1970 by the server's clock. */

/** What every answer has. */
export interface Answer {
  /** The database's time. */
  readonly nowMs: number
  /** Differs after every change of membership in what was asked about. */
  readonly version: string
}

export interface ClusterRow {
  readonly name: string
  readonly members: number
}

/** What changes all the time: who is heard from. */
export interface Pulse extends Answer {
  readonly database: string
  readonly schema: string
  readonly clusters: readonly ClusterRow[]
  /** There are more clusters than are listed. */
  readonly moreClusters: boolean
  /** Of the clusters asked about: one entry for each member that is listed, oldest registration first. */
  readonly heartbeats: readonly { readonly key: string; readonly atMs: number }[]
}

export interface MemberRow {
  /** Of the registration: its cluster and token. */
  readonly key: string
  readonly cluster: string
  readonly id: string
  readonly token: number
  /** Its beginning. */
  readonly data: string
  /** It goes on. */
  readonly isCut: boolean
  readonly registeredAtMs: number
  /** null where the question is about the past. */
  readonly heartbeatAtMs: number | null
  readonly ttlMs: number | null
  readonly session: string | null
  /** It has the lowest token of its cluster. */
  readonly leads: boolean
}

export interface Members extends Answer {
  /** The time that was asked about; null: the present. */
  readonly atMs: number | null
  /** Oldest registration first, one cluster after another. */
  readonly members: readonly MemberRow[]
  /** How many there are; only so many as fit are listed. */
  readonly total: number
}

export interface StayRow {
  readonly key: string
  readonly cluster: string
  readonly id: string
  readonly token: number
  /** The beginning of what the member carried last. */
  readonly data: string | null
  readonly joinedAtMs: number
  /** null: it was still there when the question was answered. */
  readonly leftAtMs: number | null
  readonly reason: string | null
}

/** The time in which one member had the lowest token, inside the period asked about. */
export interface Term {
  readonly cluster: string
  readonly id: string
  readonly token: number
  readonly fromMs: number
  /** null: it had not ended when the question was answered. */
  readonly toMs: number | null
}

export interface Timeline extends Answer {
  readonly fromMs: number
  readonly toMs: number
  /** How many stays overlap the period; listed are those that changed last, and the leaders. */
  readonly total: number
  readonly stays: readonly StayRow[]
  /** Oldest first. */
  readonly terms: readonly Term[]
  readonly moreTerms: boolean
  /** How many members there were at the beginning, and how many joined and left in each equal part of the period. */
  readonly membersBefore: number
  readonly parts: readonly { readonly joined: number; readonly left: number }[]
}

export interface ChangeRow {
  readonly cluster: string
  readonly revision: number
  readonly atMs: number
  readonly kind: 'joined' | 'updated' | 'left'
  readonly reason: string
  readonly id: string
  readonly token: number
  /** The beginning of what the member carried from then on, or until it left; null: the log does not have it. */
  readonly data: string | null
  /** It goes on. */
  readonly isCut: boolean
  readonly by_role: string
  /** Why, of who evicted it. */
  readonly note: string | null
}

export interface Changes extends Answer {
  /** Newest first. */
  readonly changes: readonly ChangeRow[]
  readonly more: boolean
}

export interface Data extends Answer {
  /** All of it; null: the log has no such registration at that time. */
  readonly data: string | null
}

/** What the doctor found. */
export interface Finding {
  readonly code: string
  readonly severity: 'ok' | 'note' | 'warning' | 'alert'
  readonly what: string
  readonly consequence: string
  readonly todo: string
}

export interface Findings {
  readonly findings: readonly Finding[]
}

/** With a status of 400 or higher. */
export interface Refusal {
  readonly error: string
}
