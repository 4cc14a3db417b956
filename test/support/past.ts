/** Writes a history of stays as it would be if they had happened: as a superuser, with the triggers off. */
import { randomUUID } from 'node:crypto'
import type { AdminClient } from './database.js'

export interface PastStay {
  readonly cluster: string
  readonly id?: string
  readonly data: string
  readonly joinedAgoMs: number
  /** Default: it is still there. */
  readonly leftAgoMs?: number
  readonly reason?: 'deregistered' | 'expired' | 'crashed' | 'removed' | 'superseded'
  /** By whom it was removed, and why; default: by who writes this, without a note. */
  readonly by?: { readonly role: string; readonly note: string }
  readonly updates?: readonly { readonly agoMs: number; readonly data: string }[]
  /** The age of its last heartbeat; default 0. */
  readonly silentMs?: number
}

interface Event {
  readonly cluster: string
  readonly ago: number
  readonly kind: 'joined' | 'updated' | 'left'
  readonly reason: string
  readonly member: string
  readonly token: number
  readonly joined: number
  readonly data: string | null
  readonly role?: string | undefined
  readonly note?: string | undefined
}

const WRITE = `
  with made as (
    insert into clusters (name, revision, last_token, channel)
    select cluster, max(revision), max(token), 'past ' || cluster
    from jsonb_to_recordset($1::jsonb) e (cluster text, revision bigint, token bigint) group by cluster
  )
  insert into events (cluster, revision, stamp, at, kind, reason, member, token, registered_at, data,
    by_role, note)
  select cluster, revision, gen_random_uuid(), clock_timestamp() - ago * interval '1 ms', kind, reason, member, token,
    clock_timestamp() - joined * interval '1 ms', decode(data, 'base64'), coalesce(role, session_user), note
  from jsonb_to_recordset($1::jsonb) e (cluster text, revision bigint, ago float8, kind text, reason text,
    member uuid, token bigint, joined float8, data text, role text, note text)`
const PRESENT = `
  insert into members (id, cluster, data, revision, token, registered_at, heartbeat_at, session)
  select id, cluster, decode(data, 'base64'), revision, token, clock_timestamp() - joined * interval '1 ms',
    clock_timestamp() - silent * interval '1 ms', 'past'
  from jsonb_to_recordset($1::jsonb) m (id uuid, cluster text, data text, revision bigint, token bigint,
    joined float8, silent float8)`

/** The clusters must be new. `search_path` of the client names the schema. */
export async function writePast(
  admin: Pick<AdminClient, 'query'>,
  stays: readonly PastStay[],
): Promise<void> {
  const tokens = new Map<string, number>()
  const events: Event[] = []
  const present: { readonly stay: PastStay; readonly id: string; readonly token: number }[] = []
  for (const stay of [...stays].sort((a, b) => b.joinedAgoMs - a.joinedAgoMs)) {
    const { cluster, id = randomUUID(), data, joinedAgoMs: joined, leftAgoMs, updates = [] } = stay
    const token = (tokens.get(cluster) ?? 0) + 1
    tokens.set(cluster, token)
    const about = { cluster, member: id, token, joined }
    events.push({ ...about, ago: joined, kind: 'joined', reason: 'registered', data })
    for (const { agoMs, data: newData } of updates) {
      events.push({ ...about, ago: agoMs, kind: 'updated', reason: 'data', data: newData })
    }
    if (leftAgoMs === undefined) present.push({ stay, id, token })
    else {
      const reason = stay.reason ?? 'deregistered'
      events.push({ ...about, ...stay.by, ago: leftAgoMs, kind: 'left', reason, data: null })
    }
  }
  const revisions = new Map<string, number>()
  const numbered = events
    .sort((a, b) => b.ago - a.ago)
    .map((event) => {
      const revision = (revisions.get(event.cluster) ?? 0) + 1
      revisions.set(event.cluster, revision)
      return { ...event, revision, data: event.data && base64(event.data) }
    })
  const members = present.map(({ stay, id, token }) => ({
    id,
    token,
    cluster: stay.cluster,
    data: base64(stay.updates?.at(-1)?.data ?? stay.data),
    revision: revisions.get(stay.cluster) ?? 0,
    joined: stay.joinedAgoMs,
    silent: stay.silentMs ?? 0,
  }))
  await admin.query('set session_replication_role = replica')
  try {
    await admin.query(WRITE, [JSON.stringify(numbered)])
    await admin.query(PRESENT, [JSON.stringify(members)])
  } finally {
    await admin.query('reset session_replication_role')
  }
}

/** JSON has no way for U+0000 that PostgreSQL takes. */
function base64(data: string): string {
  return Buffer.from(data).toString('base64')
}
