/** What it costs to choose a member: CPU time of this process, without a database. */
import { Ring } from 'pg-membership/ring'
import { Router } from 'pg-membership/routing'

export interface Choosing {
  readonly members: number
  /** Milliseconds to make a ring of them. */
  readonly makeMs: number
  /** Microseconds of one answer. `weighedUs`: each member has a weight of its own. */
  readonly ownerUs: number
  readonly weighedUs: number
  readonly threeOwnersUs: number
  readonly routerUs: number
  readonly ejectedUs: number
  readonly pickUs: number
}

export function choosing(): Choosing[] {
  return [1, 10, 100, 1_000].map((count) => {
    const members = Array.from({ length: count }, (_, n) => ({ id: `member ${n}` }))
    const ring = new Ring(members)
    const weighed = new Ring(members, { weight: ({ id }) => 1 + Number(id.slice(7)) / count })
    const source = { snapshot: { members } }
    const [router, ejecting] = [new Router(source), new Router(source)]
    for (const one of members.slice(0, 1)) ejecting.eject(one, { forMs: 3_600_000 })
    return {
      members: count,
      makeMs: cpuUs(() => new Ring(members)) / 1_000,
      ownerUs: cpuUs((n) => ring.owner(`key ${n}`)),
      weighedUs: cpuUs((n) => weighed.owner(`key ${n}`)),
      threeOwnersUs: cpuUs((n) => ring.owners(`key ${n}`, 3)),
      routerUs: cpuUs((n) => router.owner(`key ${n}`)),
      ejectedUs: cpuUs((n) => ejecting.owner(`key ${n}`)),
      pickUs: cpuUs(() => router.pick()),
    }
  })
}

/** CPU time of one call, in microseconds: for at least 200 ms, after as many calls before. */
export function cpuUs(call: (n: number) => unknown): number {
  for (let calls = 1; ; calls *= 2) {
    const started = process.cpuUsage()
    for (let n = 0; n < calls; n++) call(n)
    const { user, system } = process.cpuUsage(started)
    if (user + system > 200_000) return (user + system) / calls
  }
}
