/** The connection: LISTEN, and the clocks at its two ends. */
import { type Check, ok } from './finding.js'

const listen: Check = async ({ query, backendPid }) => {
  const [found] = await query<{ pid: number; standby: boolean }>(
    'select pg_backend_pid() as pid, pg_is_in_recovery() as standby',
    [],
  )
  const polls = 'A process that connects like this polls, and sees changes later.'
  if (found?.standby) {
    return [
      {
        code: 'listen',
        severity: 'note',
        what: 'this server is a standby: it takes no LISTEN and no writes',
        consequence: polls,
        todo: 'Give applications the address of the primary.',
      },
    ]
  }
  if (backendPid !== undefined && backendPid !== found?.pid) {
    return [
      {
        code: 'listen',
        severity: 'warning',
        what: 'a pooler is between here and PostgreSQL: LISTEN is lost behind it',
        consequence: polls,
        todo: 'Give applications a direct address as listenConnection.',
      },
    ]
  }
  await query('listen pg_membership_doctor', [])
  await query('unlisten pg_membership_doctor', [])
  return [ok('listen', 'LISTEN works through this connection')]
}

const SKEW_MS = 1000

const clock: Check = async ({ query }) => {
  const before = Date.now()
  const [found] = await query<{ ms: number }>(
    'select extract(epoch from clock_timestamp())::float8 * 1000 as ms',
    [],
  )
  const after = Date.now()
  // The truth lies between: no skew is claimed that the round trip could explain.
  const ms = found?.ms ?? before
  const skew = ms < before ? before - ms : Math.max(0, ms - after)
  if (skew < SKEW_MS) return [ok('clock-skew', 'the clocks here and in the database agree')]
  return [
    {
      code: 'clock-skew',
      severity: 'note',
      what: `the clocks here and in the database differ by ${(skew / 1000).toFixed(1)} s`,
      consequence:
        'Members are judged by the database alone. But its times do not fit the logs of this machine.',
      todo: 'Synchronise both clocks (NTP).',
    },
  ]
}

export const connectionChecks = { listen, 'clock-skew': clock }
