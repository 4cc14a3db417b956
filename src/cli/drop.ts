import { UsageError } from './arguments.js'
import { type Command, CONNECTION_HELP } from './command.js'
import { changing, noSuchCluster } from './database.js'

export const dropCommand: Command = {
  summary: 'forget a cluster that nobody uses any more',
  help: `Usage: pg-membership drop CLUSTER [options]

Forgets a cluster, its log included. It is refused while the cluster has members. Needs the owner.

${CONNECTION_HELP}`,
  options: {},
  maxPositionals: 1,
  connects: true,
  run(args) {
    const [cluster] = args.positionals
    if (cluster === undefined) throw new UsageError('give the name of the cluster')
    return changing(args, async (query) => {
      const unknown = await noSuchCluster(query, cluster)
      if (unknown !== '') throw new Error(unknown)
      await query('select $$.drop_cluster($1)', [cluster])
      return args.flag('json')
        ? JSON.stringify({ cluster })
        : `Dropped the cluster ${JSON.stringify(cluster)}.`
    })
  },
}
