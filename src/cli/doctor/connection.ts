/** The connection: LISTEN, and the clocks at its two ends. */
import { type Check, ok } from './finding.js'

const POLLS = 'A process that connects like this polls, and sees changes later.'

const listen: Check = async ({ hearing }) => {
  switch (await hearing) {
    // The page's server asks through one connection, and does not try.
    case undefined:
      return []
    case 'hears':
      return [ok('listen', 'LISTEN works through this connection: a notification was heard')]
    case 'standby':
      return [
        {
          code: 'listen',
          severity: 'note',
          what: 'this server is a standby: it takes no LISTEN and no writes',
          consequence: POLLS,
          todo: 'Give applications the address of the primary.',
        },
      ]
    case 'pooled':
      return [
        {
          code: 'listen',
          severity: 'warning',
          what: 'a pooler is between here and PostgreSQL: LISTEN is lost behind it',
          consequence: POLLS,
          todo: 'Give applications a direct address as listenConnection.',
        },
      ]
    case 'deaf':
      return [
        {
          code: 'listen',
          severity: 'warning',
          what: 'LISTEN is taken, but no notification came within 2 s',
          consequence: POLLS,
          todo: 'See what is between here and PostgreSQL (a proxy, a pooler), and whether the server is overloaded.',
        },
      ]
  }
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
