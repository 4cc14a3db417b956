/** One process of arms/crash.ts: registers, and tells what it sees, and how often it has swept when asked. */
import diagnostics from 'node:diagnostics_channel'
import { PostgresCluster } from 'pg-membership'

const [connection = '', name = ''] = process.argv.slice(2)
const cluster = new PostgresCluster({ connection, name })
let sweeps = 0
diagnostics.subscribe('pg-membership:sweep', () => {
  sweeps += 1
})
process.on('message', () => process.send?.({ sweeps }))
process.once('disconnect', () => process.exit())

const membership = cluster.createMembership()
await membership.register()
for await (const members of cluster.watchMembers()) {
  process.send?.({ id: membership.id, ids: members.map(({ id }) => id), at: String(process.hrtime.bigint()) })
}
