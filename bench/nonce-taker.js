/** Takes values for some seconds, from a pool of nonces or by hand, and prints how many. For bench/arms/nonces.ts. */
import pg from 'pg'
import { PostgresCluster } from 'pg-membership'
import { NoncePool } from 'pg-membership/nonces'

const [connection = '', way = '', seconds = '1'] = process.argv.slice(2)
const BY_HAND = `
  with free as (select value from by_hand where not taken limit 1 for update skip locked)
  update by_hand b set taken = true from free where b.value = free.value returning b.value`

/** Until told to begin: all processes begin together. @param {() => Promise<unknown>} take */
async function measure(take) {
  console.log('ready')
  await new Promise((resolve) => process.stdin.once('data', resolve))
  const end = performance.now() + Number(seconds) * 1_000
  let count = 0
  for (; performance.now() < end; count++) await take()
  console.log(String(count))
}

if (way === 'by hand') {
  const client = new pg.Client({ connectionString: connection })
  await client.connect()
  await measure(() => client.query({ name: 'by hand', text: BY_HAND }))
  await client.end()
} else {
  const cluster = new PostgresCluster({ connection, name: 'nonces' })
  const membership = cluster.createMembership()
  await membership.register()
  const pool = new NoncePool({ cluster, membership, name: 'bench', size: Number(way) })
  await measure(() => pool.take())
  await pool.close()
  await cluster.close()
}
process.stdin.destroy()
