/** Arguments that callers should not give break no function, and no function gives a token twice. */
import { randomUUID } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { freshSchema, uniqueName } from './support/database.js'
import { expectWholeLog, tableOf, typeMembers } from './support/event-log.js'
import { openAdmin } from './support/opened.js'
import { codeOf } from './support/roles.js'

const schema = await freshSchema()
const [a, b] = [randomUUID(), randomUUID()]

const REFUSED_NAMES: readonly [string, string, string][] = [
  ['a null instead of ids', 'null', `'{1}'`],
  ['a null instead of numbers', `'{${a}}'`, 'null'],
  ['a null among the ids', `'{null}'`, `'{1}'`],
  ['a null among the numbers', `'{${a}}'`, `'{null}'`],
  ['more ids than numbers', `'{${a}, ${b}}'`, `'{1}'`],
  ['more numbers than ids', `'{${a}}'`, `'{1, 2}'`],
  ['an id twice', `'{${a}, ${a}}'`, `'{1, 2}'`],
  ['a negative number', `'{${a}}'`, `'{-1}'`],
]
const FUNCTIONS: readonly [string, (ids: string, numbers: string) => string][] = [
  [
    'register',
    (ids, floors) =>
      `register($1, ${ids}, array_fill('x'::bytea, array[coalesce(cardinality(${ids}::uuid[]), 0)]), ${floors}, '15 s', null, 's', 0)`,
  ],
  ['heartbeat', (ids, tokens) => `heartbeat($1, ${ids}, ${tokens}, 's', 0)`],
  ['deregister', (ids, tokens) => `deregister($1, ${ids}, ${tokens})`],
  [
    'set_data',
    (ids, tokens) =>
      `set_data($1, ${ids}, ${tokens}, array_fill('x'::bytea, array[coalesce(cardinality(${ids}::uuid[]), 0)]))`,
  ],
]

describe.each(FUNCTIONS)('promise 15: %s refuses, and changes nothing', (_name, call) => {
  test.each(REFUSED_NAMES)('%s', async (_what, ids, numbers) => {
    const admin = await openAdmin()
    const cluster = uniqueName()
    await typeMembers(admin, schema, cluster, ['there'])
    const before = await tableOf(admin, schema, cluster)
    expect(await codeOf(admin, `select ${schema}.${call(ids, numbers)}`, [cluster])).toBe('22023')
    expect(await tableOf(admin, schema, cluster)).toEqual(before)
  })
})

test('promise 15: contents that are null, or do not fit the ids, are refused', async () => {
  const admin = await openAdmin()
  for (const contents of ['null', `'{null}'`, `'{x, y}'`, `'{}'`]) {
    for (const text of [
      `register('contents', '{${a}}', ${contents}, '{0}', '15 s', null, 's', 0)`,
      `set_data('contents', '{${a}}', '{1}', ${contents})`,
    ]) {
      expect([text, await codeOf(admin, `select ${schema}.${text}`)]).toEqual([text, '22023'])
    }
  }
})

test('promise 15: empty arrays are nothing to do', async () => {
  const admin = await openAdmin()
  const cluster = uniqueName()
  for (const text of [
    `register($1, '{}', '{}', '{}', '15 s', null, 's', 0)`,
    `heartbeat($1, '{}', '{}', 's', 0)`,
    `deregister($1, '{}', '{}')`,
    `set_data($1, '{}', '{}', '{}')`,
  ])
    expect([text, await codeOf(admin, `select ${schema}.${text}`, [cluster])]).toEqual([text, undefined])
  expect(await tableOf(admin, schema, cluster)).toEqual({ revision: 0, members: [] })
})

describe('promise 15: a registration cannot be born with', () => {
  test.each([
    ['no ttl', 'null', 'null'],
    ['an endless ttl', `make_interval(days => 400)`, 'null'],
    ['a negative ttl', `'-15 s'`, 'null'],
    ['a negative grace', `'15 s'`, `'-1 s'`],
    ['a grace longer than half its ttl', `'15 s'`, `'8 s'`],
  ])('%s', async (_what, ttl, grace) => {
    const admin = await openAdmin()
    const cluster = uniqueName()
    const text = `select ${schema}.register($1, array[$2::uuid], '{x}', '{0}', ${ttl}, ${grace}, 's', 0)`
    expect(await codeOf(admin, text, [cluster, randomUUID()])).toMatch(/^(23502|23514|22008)$/)
    expect(await tableOf(admin, schema, cluster)).toEqual({ revision: 0, members: [] })
  })

  test('a ttl that seems a day and lasts three: it is stored in seconds', async () => {
    const admin = await openAdmin()
    const id = randomUUID()
    const odd = `'1 mon -29 days'::interval`
    const [cluster, members] = [uniqueName(), `${schema}.members`]
    await admin.query(
      `select ${schema}.register($1, array[$2::uuid], '{x}', '{0}', ${odd}, ${odd} / 4, 's', 0)`,
      [cluster, id],
    )
    const { rows } = await admin.query(`select ttl::text, crash_grace::text from ${members} where id = $1`, [
      id,
    ])
    expect(rows).toEqual([{ ttl: '24:00:00', crash_grace: '06:00:00' }])
    // By hand it is refused.
    const update = `update ${members} set ttl = ${odd} where id = $1`
    expect(await codeOf(admin, update, [id])).toBe('23514')
  })

  test('an absurd floor, which would use tokens up', async () => {
    const admin = await openAdmin()
    for (const floor of ['9223372036854775807', '9007199254740992', '2000000000']) {
      const text = `select ${schema}.register('floors', array[$1::uuid], '{x}', '{${floor}}', '15 s', null, 's', 0)`
      expect([floor, await codeOf(admin, text, [randomUUID()])]).toEqual([floor, '22023'])
    }
  })
})

test('promises 13 and 16: an index keeps tokens unique, whoever writes', async () => {
  const admin = await openAdmin()
  const cluster = uniqueName()
  await typeMembers(admin, schema, cluster, ['one', 'two'])
  await admin.query(`alter table ${schema}.members disable trigger user`)
  try {
    const text = `update ${schema}.members set token = 1 where cluster = $1`
    expect(await codeOf(admin, text, [cluster])).toBe('23505')
  } finally {
    await admin.query(`alter table ${schema}.members enable trigger user`)
  }
})

test('promise 4: many rows typed at once get a token each', async () => {
  const admin = await openAdmin()
  const cluster = uniqueName()
  await admin.query(
    `insert into ${schema}.members (id, cluster) select gen_random_uuid(), $1 from generate_series(1, 500)`,
    [cluster],
  )
  const { members } = await tableOf(admin, schema, cluster)
  expect(members.map(({ token }) => token)).toEqual(Array.from({ length: 500 }, (_, n) => n + 1))
  await expectWholeLog(admin, schema, cluster)
})
