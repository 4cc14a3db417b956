/** What a request may ask for: everything in it is checked before anything is done. */
import { isIP } from 'node:net'

/** The answer is this status, with the message as its reason. */
export class RequestError extends Error {
  readonly status: number

  constructor(status: number, message: string) {
    super(message)
    this.status = status
  }
}

/**
 * A web page of somebody else can lead its own name to 127.0.0.1 (DNS rebinding), and then reads what is served
 * there. Its browser still sends that name as Host. So only names are taken that nobody else can lead here: an
 * address, localhost, and the host that the page's server was told to use.
 */
export function checkHost(header: string | undefined, served: string): void {
  const [, name = ''] = /^(\[[\da-f:.]+\]|[^:[\]/?#@\s]+)(?::\d{1,5})?$/i.exec(header ?? '') ?? []
  const host = name.replace(/^\[|\]$/g, '').toLowerCase()
  if (host !== '' && (host === 'localhost' || host === served.toLowerCase() || isIP(host) !== 0)) return
  throw new RequestError(
    421,
    'This host name is not served here. Open the page by its IP address, by localhost, or by the name given as --host.',
  )
}

/** The last moment that both JavaScript and PostgreSQL can express. */
const MAX_MS = 8.64e15
const MAX_CLUSTER_LENGTH = 255

export class Parameters {
  readonly #values: URLSearchParams

  constructor(values: URLSearchParams, known: readonly string[]) {
    this.#values = values
    const names = [...values.keys()]
    const wrong = names.find((name, n) => !known.includes(name) || names.indexOf(name) !== n)
    if (wrong !== undefined) throw new RequestError(400, `${JSON.stringify(wrong)} is not a parameter here`)
  }

  cluster(): string | undefined {
    const name = this.#values.get('cluster') ?? undefined
    if (name !== undefined && (name === '' || name.length > MAX_CLUSTER_LENGTH || name.includes('\0'))) {
      throw new RequestError(400, 'cluster must be the name of a cluster')
    }
    return name
  }

  number(name: string, min: number, max: number): number | undefined {
    const text = this.#values.get(name)
    if (text === null) return undefined
    const value = /^\d{1,16}(\.\d{1,9})?$/.test(text) ? Number(text) : NaN
    if (value >= min && value <= max) return value
    throw new RequestError(400, `${name} must be a number between ${String(min)} and ${String(max)}`)
  }

  integer(name: string, min: number, max: number): number | undefined {
    const value = this.number(name, min, max)
    if (value === undefined || Number.isInteger(value)) return value
    throw new RequestError(400, `${name} must be a whole number`)
  }

  momentMs(name: string): number | undefined {
    return this.number(name, 0, MAX_MS)
  }

  id(): string {
    const id = this.#values.get('id') ?? ''
    if (/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(id)) return id
    throw new RequestError(400, 'id must be the id of a member, a UUID')
  }

  required<T>(name: string, value: T | undefined): T {
    if (value === undefined) throw new RequestError(400, `${name} is missing`)
    return value
  }
}
