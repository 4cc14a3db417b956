/** Objects that users hold: nothing is reachable on them but what the contract names. */
import { PostgresCluster } from 'pg-membership'
import { MemoryCluster } from 'pg-membership/memory'
import { expect, onTestFinished, test } from 'vitest'

const CLUSTER = [
  'name',
  'snapshot',
  'status',
  'createMembership',
  'getMembers',
  'watchMembers',
  'watchChanges',
  'close',
]
const MEMBERSHIP = ['id', 'data', 'lease', 'whenRegistered', 'register', 'deregister', 'setData', 'fence']

/** Own and inherited, without what every object has. */
function namesOf(object: object): string[] {
  const names = new Set<string>()
  for (
    let at: object | null = object;
    at !== null && at !== Object.prototype;
    at = Object.getPrototypeOf(at) as object | null
  )
    for (const name of Object.getOwnPropertyNames(at)) if (name !== 'constructor') names.add(name)
  return [...names].sort()
}

test('contract: nothing internal is reachable on a cluster, a membership or shared connections', () => {
  const postgres = new PostgresCluster({ name: 'x', connection: 'postgres://localhost/x' })
  const memory = new MemoryCluster({ name: 'x' })
  onTestFinished(async () => {
    await Promise.all([postgres.close(), memory.close()])
  })
  expect(namesOf(postgres)).toEqual([...CLUSTER, 'connections'].sort())
  expect(namesOf(memory)).toEqual([...CLUSTER].sort())
  for (const cluster of [postgres, memory]) {
    expect(namesOf(cluster.createMembership())).toEqual([...MEMBERSHIP].sort())
  }
  expect(Reflect.ownKeys(postgres.connections)).toEqual([])
  expect(namesOf(postgres.connections)).toEqual([])
})
