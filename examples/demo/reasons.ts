/** Why a member left, in two forms: as the log of the database says it, and as the process itself learns it. */

const LEFT: Readonly<Record<string, string>> = {
  expired: 'no heartbeat for a whole ttl',
  crashed: 'the database saw its connections close',
}

const LOST: Readonly<Record<string, string>> = {
  // The process knows this by its own clock, before it could ask the database.
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
