/**
 * What the rows of an answer mean. All values are text as PostgreSQL writes it, because applications may change pg's
 * parsers for the whole process.
 */
import type { Member } from '../api/member.js'
import {
  type Delta,
  type MemberChange,
  type Position,
  positionOf,
  type Reading,
  samePosition,
  type Sighting,
  untold,
} from '../engine/store.js'

export interface HeadRow {
  revision: string | null
  stamp: string | null
  sweep_overdue: 't' | 'f'
  /** Of the members' channel; null: there is no such cluster. */
  channel_stamp: string | null
}

/** The columns that tell the position of the cluster after a write, and the stamp before it. */
export interface DeltaRow {
  revision: string | null
  stamp: string | null
  previous_stamp: string | null
}

export interface MemberRow {
  id: string | null
  token: string
  /** In base64, so that the setting bytea_output does not matter. */
  data: string | null
  registered_at: string
}

export function one<T>(rows: readonly T[]): T {
  const [row] = rows
  if (row === undefined) throw new Error('The database answered with no row')
  return row
}

export function strings(json: string | null): readonly string[] {
  return json === null ? [] : (JSON.parse(json) as string[])
}

/** If the cluster does not exist, there is no row, or a row of nulls. */
export function sightingOf(head: HeadRow | undefined): Sighting {
  const { revision, stamp, sweep_overdue } = head ?? {}
  return { revision: Number(revision ?? 0), stamp: stamp ?? '', sweepOverdue: sweep_overdue === 't' }
}

/** `changes`: all changes of the write, in order. They count only if the answer has a previous stamp. */
export function deltaOf(row: DeltaRow | undefined, changes: readonly MemberChange[]): Delta {
  const revision = Number(row?.revision ?? 0)
  const before = row?.previous_stamp ?? undefined
  const to = positionOf(revision, row?.stamp ?? '')
  if (before === undefined || changes.length === 0) return untold(to)
  return { to, from: positionOf(revision - changes.length, before), changes }
}

/** `then`: the stamp that the log has at the position's revision, if it has one. */
export function historyOf(since: Position, head: Position, then: string | undefined): Reading['history'] {
  if (samePosition(since, head)) return 'same'
  const found = since.revision === head.revision ? head.stamp : (then ?? '')
  if (found === '' || since.stamp === '') return 'unknown'
  return found === since.stamp ? 'same' : 'other'
}

export function memberOf({ id, token, data, registered_at }: MemberRow): Member {
  return {
    id: id ?? '',
    token: Number(token),
    data: data === null ? '' : Buffer.from(data, 'base64').toString(),
    registeredAt: registered_at,
  }
}
