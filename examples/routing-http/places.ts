/** What members carry: the convention of the guides. */
import type { Cluster } from 'pg-membership'
import { json, typed, type TypedCluster } from 'pg-membership/typed'
import { z } from 'zod'

const Place = z.object({
  /** Where others reach this process. */
  url: z.url(),
  /** 0: it is draining, and gets nothing new. */
  weight: z.number().min(0),
})
export type Place = z.infer<typeof Place>

export function places(cluster: Cluster): TypedCluster<Place> {
  return typed(cluster, json(Place), {
    onInvalid: ({ id }, error) => console.error(`member ${id} is left out: ${String(error)}`),
  })
}
