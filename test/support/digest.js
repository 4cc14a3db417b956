import { createHash } from 'node:crypto'

/**
 * What a snapshot says, in a few bytes that processes can exchange.
 * @param {readonly import('pg-membership').Member[]} members
 */
export function digestOf(members) {
  const hash = createHash('sha256')
  for (const { id, token, data, registeredAt } of members) {
    hash.update(JSON.stringify([id, token, data, registeredAt]))
  }
  return hash.digest('base64').slice(0, 16)
}
