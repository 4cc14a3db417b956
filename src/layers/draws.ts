/**
 * The number that a member draws for a key, and how draws of members with different weights compare.
 * docs/guides/routing.md describes the same for other languages: a change here moves the keys of every user.
 */
import { hash } from 'node:crypto'

/** The first 64 bits of the SHA-256 of a key's UTF-8, in two parts. */
export function seedsOf(key: string): [number, number] {
  const digest = hash('sha256', key, 'hex')
  return [parseInt(digest.slice(0, 8), 16) | 0, parseInt(digest.slice(8, 16), 16) | 0]
}

/** From the seeds of a member and those of a key: an integer from 0 to 2^32 - 1. */
export function drawOf(ofMember: number, andOther: number, ofKey: number, andSecond: number): number {
  return mixed(mixed(ofMember ^ ofKey) ^ andOther ^ andSecond) >>> 0
}

/**
 * The highest score owns the key. It has the distribution for which the probability of being the highest is exactly the
 * share of the weight. It depends on no other member.
 */
export function scoreOf(draw: number, weight: number): number {
  return Math.log(weight) - Math.log(-Math.log((draw + 0.5) / 2 ** 32))
}

/** The last step of MurmurHash3 for 32 bits: each bit of the result depends on all bits of the number. */
function mixed(number: number): number {
  const half = Math.imul(number ^ (number >>> 16), 0x85ebca6b)
  const most = Math.imul(half ^ (half >>> 13), 0xc2b2ae35)
  return most ^ (most >>> 16)
}
