/** Where messages of PostgreSQL's protocol begin and end, so that tests can break a conversation anywhere. */
import type { Direction } from './proxied-connection.js'
import { size } from './size.js'
import type { TcpProxy } from './tcp-proxy.js'
import { until } from './until.js'

/** A place to cut: after so many bytes of what follows a statement. */
export interface Place {
  readonly direction: Direction
  readonly afterBytes: number
  /** For a failing test's reader: 'toClient 5: in the middle of message 2 (T)'. */
  readonly where: string
}

/** That a client has sent the statement of this name (`src/postgres/store.ts`), prepared or as text; '': anything. */
export function sends(name: string): (traffic: { readonly sent: string }) => boolean {
  return ({ sent }) => name === '' || sent.includes(`pg-membership ${name} `) || sent.includes(`-- ${name}\n`)
}

/** How often clients have sent statements of these names through the proxy, since this call. */
export function countOf(proxy: TcpProxy, ...names: readonly string[]): () => number {
  const sent = proxy.record({ direction: 'toServer', when: () => true })
  const pattern = new RegExp(`pg-membership (?:${names.join('|')}) `, 'g')
  return () => Buffer.concat(sent).toString('latin1').match(pattern)?.length ?? 0
}

/** What ends a statement on its way to the server (Sync), and its answer (ReadyForQuery). */
const LAST = { toServer: 'S', toClient: 'Z' } as const

/**
 * Before the first message, in the middle of each and after each, up to the end of a statement or, with
 * `answers`, of so many answers. The very end of an answer is left out: there nothing is lost.
 */
export function placesIn(direction: Direction, bytes: Buffer, answers = 1): Place[] {
  const places: Place[] = [{ direction, afterBytes: 0, where: `${direction} 0: before everything` }]
  let [begin, left] = [0, answers]
  for (let n = 1; left > 0; n++) {
    if (begin + 5 > bytes.length) throw new Error(`${direction}: no end after ${bytes.length} bytes`)
    const type = String.fromCharCode(bytes[begin] ?? 0)
    const end = begin + 1 + bytes.readInt32BE(begin + 1)
    const add = (afterBytes: number, what: string): void => {
      places.push({
        direction,
        afterBytes,
        where: `${direction} ${afterBytes}: ${what} message ${n} (${type})`,
      })
    }
    add(Math.floor((begin + end) / 2), 'in the middle of')
    if (type === LAST[direction]) left -= 1
    if (left > 0 || direction === 'toServer') add(end, 'after')
    begin = end
  }
  return places
}

/** One of five, others in each run; all of them with LONG=yes. What fails names its place. */
export function someOf(places: readonly Place[]): Place[] {
  const step = size(1, 5)
  const first = Math.floor(Math.random() * step)
  return places.filter((_, n) => n % step === first)
}

/** Places of the statement of this name, and of its answer, as `act` makes the client send it. */
export async function placesOf(proxy: TcpProxy, name: string, act: () => Promise<unknown>): Promise<Place[]> {
  const when = sends(name)
  const statement = proxy.record({ direction: 'toServer', when })
  const answer = proxy.record({ direction: 'toClient', when })
  await act()
  const whole = placesIn('toServer', Buffer.concat(statement)).slice(0, -1)
  return someOf([...whole, ...placesIn('toClient', Buffer.concat(answer))])
}

/** Acts while the connection that sends the statement of this name breaks at this place, as often as `times`. */
export async function broken<T>(
  proxy: TcpProxy,
  name: string,
  { direction, afterBytes, where }: Place,
  act: () => Promise<T>,
  times = 1,
): Promise<T> {
  let cuts = 0
  const cutting = async (): Promise<void> => {
    for (; cuts < times; cuts++) {
      await proxy.cutOnce({ direction, afterBytes, when: sends(name) })
    }
  }
  const cut = cutting()
  const result = await act()
  await until(() => cuts === times, { message: () => `${times} cuts ${where}, and there were ${cuts}` })
  await cut
  return result
}
