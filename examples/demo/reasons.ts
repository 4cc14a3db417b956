/** Why somebody left, twice: as the log of the database has it, and as the process itself learns it. */

const LEFT: Readonly<Record<string, string>> = {
  expired: 'no heartbeat for a whole ttl',
  crashed: 'the database saw its connections close',
}

const LOST: Readonly<Record<string, string>> = {
  // Known by its own clock, before the database could be asked.
  unreachable: 'no heartbeat got through in time',
  expired: 'the others had removed it',
}

export function whyLeft(reason: string): string {
  return explained(reason, LEFT[reason])
}

export function whyLost(reason: string): string {
  return explained(reason, LOST[reason])
}

function explained(reason: string, explanation: string | undefined): string {
  return explanation === undefined ? `'${reason}'` : `'${reason}', ${explanation}`
}
