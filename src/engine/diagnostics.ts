/** The channels of api/diagnostics.ts, to publish on. Without a subscriber it costs next to nothing. */
import diagnostics from 'node:diagnostics_channel'
import type { Cluster } from '../api/cluster.js'
import type { DiagnosticsMessages } from '../api/diagnostics.js'

type Short<Name> = Name extends `pg-membership:${infer Short}` ? Short : never
export type MessageName = Short<keyof DiagnosticsMessages>
export type MessageDetails<N extends MessageName> = Omit<
  DiagnosticsMessages[`pg-membership:${N}`],
  'cluster' | 'publisher'
>

const channels: Readonly<Record<MessageName, diagnostics.Channel>> = {
  snapshot: diagnostics.channel('pg-membership:snapshot'),
  delta: diagnostics.channel('pg-membership:delta'),
  refresh: diagnostics.channel('pg-membership:refresh'),
  heartbeat: diagnostics.channel('pg-membership:heartbeat'),
  sweep: diagnostics.channel('pg-membership:sweep'),
  eviction: diagnostics.channel('pg-membership:eviction'),
  lease: diagnostics.channel('pg-membership:lease'),
  status: diagnostics.channel('pg-membership:status'),
  error: diagnostics.channel('pg-membership:error'),
}

/** `details` may be a function where they cost something: it is called only if somebody listens. */
export function publish<N extends MessageName>(
  publisher: Cluster,
  name: N,
  details: MessageDetails<N> | (() => MessageDetails<N>),
): void {
  const channel = channels[name]
  if (!channel.hasSubscribers) return
  const { name: cluster } = publisher
  channel.publish({ cluster, publisher, ...(typeof details === 'function' ? details() : details) })
}
