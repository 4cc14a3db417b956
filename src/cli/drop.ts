import type { Query } from '../postgres/query.js'
import { UsageError } from './arguments.js'
import { type Command, CONNECTION_HELP } from './command.js'
import { changing, noSuchCluster, reading } from './database.js'

export const dropCommand: Command = {
  summary: 'forget a cluster that nobody uses any more',
  help: `Usage: pg-membership drop CLUSTER [options]

Forgets a cluster, its log and its nonces included. It says what will be lost, and asks for the name of the cluster.
It is refused while the cluster has members. Needs the owner.

Where nonces of the cluster were used, these values can be used a second time afterwards, if somebody stocks them
again in a cluster of this name.

  --yes              do not ask: for scripts
${CONNECTION_HELP}`,
  options: { yes: { type: 'boolean' } },
  maxPositionals: 1,
  connects: true,
  async run(args) {
    const [cluster] = args.positionals
    if (cluster === undefined) throw new UsageError('give the name of the cluster')
    const { ask } = args.surroundings
    if (!args.flag('yes') && ask === undefined) throw new UsageError('nobody is there to confirm: give --yes')
    // The transaction ends before somebody is asked: nobody waits for a person.
    const loss = await reading(args, (query) => lossOf(query, cluster))
    if (!args.flag('yes') && ask !== undefined) {
      const question = `This forgets the cluster ${JSON.stringify(cluster)} for good: ${inWords(loss)}.\nType its name to confirm: `
      if ((await ask(question)) !== cluster) throw new Error('that is not its name: nothing is forgotten')
    }
    return changing(args, async (query) => {
      // What was used since is not confirmed: then it is refused.
      await query('select $$.drop_cluster($1, $2)', [cluster, loss.used > 0])
      return args.flag('json')
        ? JSON.stringify({ cluster, ...loss })
        : `Dropped the cluster ${JSON.stringify(cluster)}: ${inWords(loss)}.`
    })
  },
}

interface Loss {
  readonly events: number
  readonly nonces: number
  readonly used: number
}

async function lossOf(query: Query, cluster: string): Promise<Loss> {
  const unknown = await noSuchCluster(query, cluster)
  if (unknown !== '') throw new Error(unknown)
  const [{ events, nonces, used } = { events: 0, nonces: 0, used: 0 }] = await query<Loss>(
    `select (select count(*) from $$.events where cluster = $1)::float8 as events,
      count(*)::float8 as nonces, count(used_at)::float8 as used from $$.nonces where cluster = $1`,
    [cluster],
  )
  return { events, nonces, used }
}

function inWords({ events, nonces, used }: Loss): string {
  const again =
    used === 0 ? '' : ` (${String(used)} of them used: these values can then be used a second time)`
  return `${String(events)} changes of the log and ${String(nonces)} nonces${again}`
}
