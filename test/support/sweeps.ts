/** Sweeps of one schema, as its processes call them, and clusters in which there is something to sweep. */
import { expect } from 'vitest'
import { type AdminClient, uniqueName } from './database.js'
import { silence, tableOf, typeMembers } from './event-log.js'

export interface Swept {
  wait_ms: number
  removed: number
  obstacles: string[] | null
}

export interface Sweeps {
  readonly sweep: (admin: AdminClient, cluster: string) => Promise<Swept>
  /** Returns the clusters for which the short path has answered. */
  readonly sweepIdle: (admin: AdminClient, ...clusters: readonly (string | null)[]) => Promise<string[]>
  /** A cluster whose first members have been silent for a day under watch; the others have not. */
  readonly clusterWith: (
    admin: AdminClient,
    silent: number,
    lively?: number,
  ) => Promise<{ readonly cluster: string; readonly ids: readonly string[] }>
  readonly idsOf: (admin: AdminClient, cluster: string) => Promise<string[]>
}

export function sweepsOf(schema: string): Sweeps {
  const sweep = async (admin: AdminClient, cluster: string): Promise<Swept> => {
    const { rows } = await admin.query<Swept>(`select * from ${schema}.sweep($1)`, [cluster])
    if (!rows[0]) throw new Error('a sweep answers')
    return rows[0]
  }
  return {
    sweep,
    sweepIdle: async (admin, ...clusters) => {
      const { rows } = await admin.query<{ cluster: string; wait_ms: number }>(
        `select * from ${schema}.sweep_idle($1)`,
        [clusters],
      )
      for (const { wait_ms } of rows) expect(wait_ms).toBeGreaterThan(0)
      return rows.map(({ cluster }) => cluster)
    },
    clusterWith: async (admin, silent, lively = 1) => {
      const cluster = uniqueName()
      const data = Array.from({ length: silent + lively }, (_, n) => String(n))
      const ids = await typeMembers(admin, schema, cluster, data)
      await sweep(admin, cluster)
      await silence(admin, schema, cluster, ids.slice(0, silent))
      return { cluster, ids }
    },
    idsOf: async (admin, cluster) => (await tableOf(admin, schema, cluster)).members.map(({ id }) => id),
  }
}
