// Tells its parent each change of a cluster from the beginning: node feed-main.js <url> <schema> <name>
import { PostgresCluster } from 'pg-membership'

const [connection = '', schema = '', name = ''] = process.argv.slice(2)
const cluster = new PostgresCluster({ connection, schema, name })
for await (const change of cluster.watchChanges({ since: '0.' })) process.send?.(change)
