/** Whether a connection hears what another one says: tried, because all else only looks as if. */
import { randomBytes } from 'node:crypto'
import type pg from 'pg'
import { within } from '../../kit/waiting.js'

/** `pooled`: a pooler is between. `standby`: it takes no LISTEN. `deaf`: nothing was heard in time. */
export type Hearing = 'hears' | 'deaf' | 'pooled' | 'standby'

const HEAR_TIMEOUT_MS = 2_000

/** Outside of a transaction, because LISTEN and NOTIFY take effect when one ends. `notify` uses another connection. */
export async function hearingOf(
  client: pg.Client,
  notify: (statement: string) => Promise<unknown>,
): Promise<Hearing> {
  const { rows } = await client.query<{ pid: number; standby: boolean }>(
    'select pg_catalog.pg_backend_pid() as pid, pg_catalog.pg_is_in_recovery() as standby',
  )
  if (rows[0]?.standby) return 'standby'
  if (rows[0]?.pid !== (client as { processID?: number }).processID) return 'pooled'
  const channel = `pg_membership_doctor_${randomBytes(8).toString('hex')}`
  const heard = new Promise<Hearing>((resolve) => {
    client.on('notification', (message) => {
      if (message.channel === channel) resolve('hears')
    })
  })
  await client.query(`listen ${channel}`)
  await notify(`notify ${channel}`)
  const hearing = await within(HEAR_TIMEOUT_MS, heard, 'hearing').catch(() => 'deaf' as const)
  await client.query(`unlisten ${channel}`)
  return hearing
}
