/** A process of arms/server-cpu.ts that is in so many clusters, and then does nothing. */
import { PostgresCluster } from 'pg-membership'

const [connection = '', name = '', count = '1'] = process.argv.slice(2)
process.once('disconnect', () => process.exit())
let first: PostgresCluster | undefined
for (let n = 0; n < Number(count); n++) {
  const cluster = new PostgresCluster({ connection: first?.connections ?? connection, name: `${name} ${n}` })
  first ??= cluster
  await cluster.getMembers()
  await cluster.createMembership().register()
}
process.send?.('idle')
