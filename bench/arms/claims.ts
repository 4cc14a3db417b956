/** What it takes to claim keys and to release them. */
import { PostgresCluster } from 'pg-membership'
import { Claims } from 'pg-membership/claims'
import { type Summary, summary } from '../lib/stats.js'

export interface Claimed {
  readonly keys: number
  /** Milliseconds of one call. */
  readonly claim: Summary
  readonly release: Summary
}

export async function claimed(postgres: string): Promise<Claimed[]> {
  const rounds = Number(process.env.ROUNDS ?? 200)
  const cluster = new PostgresCluster({ connection: postgres, name: 'claims' })
  const membership = cluster.createMembership()
  await membership.register()
  const claims = new Claims({ cluster, membership })
  const results: Claimed[] = []
  for (const count of [1, 100, 10_000]) {
    const keys = Array.from({ length: count }, (_, n) => `key ${n}`)
    const [claim, release]: [number[], number[]] = [[], []]
    for (let n = 0; n < Math.max(5, rounds / Math.sqrt(count)); n++) {
      const started = performance.now()
      await claims.claim(keys)
      const between = performance.now()
      await claims.release(keys)
      claim.push(between - started)
      release.push(performance.now() - between)
    }
    results.push({ keys: count, claim: summary(claim), release: summary(release) })
  }
  await cluster.close()
  return results
}
