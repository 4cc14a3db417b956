/** Whether LISTEN works through this connection: tried, with a notification that a second connection sends. */
import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { within } from '../../kit/waiting.js'
import { clientConfig } from '../../postgres/connection/client.js'
import { type Finding, ok } from './finding.js'

const TIMEOUT_MS = 3_000

export async function listeningFinding(connection: string): Promise<Finding> {
  await using first = await connected(connection)
  await using second = await connected(connection)
  const channel = `pg_membership_doctor_${randomBytes(6).toString('hex')}`
  const { rows } = await first.client.query<{ standby: boolean; pid: number }>(
    'select pg_is_in_recovery() as standby, pg_backend_pid() as pid',
  )
  const [row] = rows
  if (row?.standby === true) {
    return broken(
      'This is a standby: it cannot LISTEN, and takes no writes.',
      'Give the address of the primary.',
    )
  }
  const heard = new Promise<void>((resolve) => {
    first.client.on('notification', ({ channel: name }) => {
      if (name === channel) resolve()
    })
  })
  try {
    await first.client.query(`listen ${channel}`)
    await second.client.query(`notify ${channel}`)
    await within(TIMEOUT_MS, heard, 'waiting for the notification')
    return ok('listening', 'LISTEN works through this connection.')
  } catch (error) {
    const { processID } = first.client as pg.Client & { readonly processID?: number }
    const pooled = processID !== row?.pid
    const why = pooled ? 'a pooler in transaction or statement mode is in between' : (error as Error).message
    return broken(
      `LISTEN does not work through this connection: ${why}.`,
      'Give a direct address, or one in session mode, as listenConnection: docs/guides/poolers-and-serverless.md.',
    )
  }
}

function broken(what: string, todo: string): Finding {
  return {
    code: 'listening',
    severity: 'warning',
    what,
    consequence: 'Processes with this connection poll: they see changes with the next poll, not at once.',
    todo,
  }
}

async function connected(connection: string): Promise<AsyncDisposable & { readonly client: pg.Client }> {
  const socket = await clientConfig({
    connection,
    applicationName: 'pg-membership doctor',
    connectTimeoutMs: TIMEOUT_MS,
  })
  const client = new pg.Client(socket.config)
  client.on('error', () => undefined)
  await within(TIMEOUT_MS, client.connect(), 'connecting')
  return {
    client,
    [Symbol.asyncDispose]: async () => {
      await within(TIMEOUT_MS, client.end(), 'closing').catch(() => undefined)
      socket.destroy()
    },
  }
}
