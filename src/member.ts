/** A member, and the data that it carries. */

/** Anyone in a cluster. Frozen; survives JSON. Identity is kept from snapshot to snapshot while nothing about it changes. */
export interface Member {
  /** Canonical string of a UUID; the same through every register/deregister cycle of one membership. */
  readonly id: string
  /** Any string that its owner set, at most 1 MiB of UTF-8; '' by default. */
  readonly data: string
  /** The number of this registration: always higher than every earlier one of the cluster. A fencing token. */
  readonly token: number
  /** Server time of the registration, ISO 8601 UTC. */
  readonly registeredAt: string
}

const MAX_DATA_BYTES = 1_048_576

/**
 * Returns `data` when it can be stored, so that it comes back identical.
 *
 * @throws TypeError when it is not a string, or has a lone surrogate, which UTF-8 cannot express.
 * @throws RangeError beyond 1 MiB of UTF-8.
 */
export function storableData(data: unknown): string {
  if (typeof data !== 'string') {
    throw new TypeError(`data must be a string, not ${data === null ? 'null' : typeof data}`)
  }
  if (!data.isWellFormed()) {
    throw new TypeError(
      'data must be well-formed: it has a lone surrogate. Encode binary data as latin1 or base64.',
    )
  }
  const bytes = Buffer.byteLength(data)
  if (bytes > MAX_DATA_BYTES) {
    throw new RangeError(`data must be at most ${MAX_DATA_BYTES} bytes of UTF-8, not ${bytes}`)
  }
  return data
}

export function freezeMember({ id, data, token, registeredAt }: Member): Member {
  return Object.freeze({ id, data, token, registeredAt })
}

export function sameMember(a: Member, b: Member): boolean {
  return a.id === b.id && a.token === b.token && a.data === b.data && a.registeredAt === b.registeredAt
}
