import { createHash } from 'node:crypto'

/**
 * What a snapshot says, in a few bytes that processes can exchange.
 * @param {readonly import('pg-membership').Member[]} members
 */
export function digestOf(members) {
  const hash = createHash('sha256')
  for (const member of members) hash.update(hashOf(member))
  return hash.digest('base64').slice(0, 16)
}

/**
 * Of those that stay from snapshot to snapshot only once: they may carry a mebibyte.
 * @type {WeakMap<import('pg-membership').Member, Buffer>}
 */
const hashes = new WeakMap()

/** @param {import('pg-membership').Member} member */
function hashOf(member) {
  const known = hashes.get(member)
  if (known !== undefined) return known
  const { id, token, data, registeredAt } = member
  const hash = createHash('sha256')
    .update(JSON.stringify([id, token, data, registeredAt]))
    .digest()
  hashes.set(member, hash)
  return hash
}

/**
 * What one entry of a cluster's history says.
 * @param {{ readonly revision: number, readonly kind: string, readonly reason: string }} change
 * @param {import('pg-membership').Member} member
 */
export function changeDigestOf({ revision, kind, reason }, member) {
  return `${String(revision)} ${kind} ${reason} ${digestOf([member])}`
}

/** Data that is long: how it begins, and a digest of all of it. @param {string} data */
export function shortened(data) {
  if (data.length <= 1_000) return data
  return `${data.slice(0, 40)} ${createHash('sha256').update(data).digest('base64')}`
}
