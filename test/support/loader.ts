/** A process that loads a cluster once, and tells how many members it has and the memory that this took at most. */
import { PostgresCluster } from 'pg-membership'

const [connection, schema, name] = process.argv.slice(2)
if (connection === undefined || schema === undefined || name === undefined) throw new Error('three arguments')
// What is used before anything is loaded: an empty cluster goes through the same code.
await using empty = new PostgresCluster({
  connection,
  schema,
  name: `${name} empty`,
  listenConnection: false,
})
await empty.getMembers()
const beforeKib = process.resourceUsage().maxRSS
await using cluster = new PostgresCluster({ connection, schema, name, listenConnection: false })
const members = await cluster.getMembers()
const tookMib = (process.resourceUsage().maxRSS - beforeKib) / 1_024
process.stdout.write(JSON.stringify({ members: members.length, tookMib }))
