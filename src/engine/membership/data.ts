/** The data that a member carries. */

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
