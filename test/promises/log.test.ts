import { MembershipLostError } from 'pg-membership'
import { expect, test } from 'vitest'
import { Chance } from '../support/chance.js'
import { type AdminClient, freshSchema, uniqueName } from '../support/database.js'
import { eventsOf, expectWholeLog, seesNoGap, storyOf, tableOf, typeMembers } from '../support/event-log.js'
import { joined, openAdmin, openCluster, openProxy } from '../support/opened.js'
import { size } from '../support/size.js'
import { until } from '../support/until.js'
import { sends } from '../support/wire.js'

const schema = await freshSchema()
const members = `${schema}.members`

interface Token {
  id: string
  token: string | null
}

async function register(
  client: AdminClient,
  cluster: string,
  ids: readonly string[],
  floors = ids.map(() => 0),
): Promise<Token[]> {
  const { rows } = await client.query<Token>(
    `select id, token from ${schema}.register($1, $2, $3, $4, '15 s', null, 'nobody', 0)`,
    [cluster, ids, ids.map(() => Buffer.from('')), floors],
  )
  return rows
}

async function newIds(admin: AdminClient, count: number): Promise<string[]> {
  const { rows } = await admin.query<{ id: string }>(
    'select gen_random_uuid() as id from generate_series(1, $1)',
    [count],
  )
  return rows.map(({ id }) => id)
}

test('promise 4: what is typed by hand is logged, row by row, with its reason', async () => {
  const admin = await openAdmin()
  const cluster = uniqueName()
  const [one = '', two = ''] = await typeMembers(admin, schema, cluster, ['one', 'two'])
  await admin.query(`update ${members} set data = 'changed' where cluster = $1`, [cluster])
  await admin.query(`update ${members} set data = data where cluster = $1`, [cluster])
  await admin.query(`update ${members} set heartbeat_at = now() where cluster = $1`, [cluster])
  await admin.query(
    `insert into ${members} (id, cluster, data) values ($1, $3, 'again'), ($2, $3, 'again')
     on conflict (id) do update set data = 'by conflict'`,
    [one, '00000000-0000-4000-8000-000000000000', cluster],
  )
  await admin.query(`insert into ${members} (id, cluster) values ($1, $2) on conflict do nothing`, [
    two,
    cluster,
  ])
  await admin.query(`delete from ${members} where cluster = $1`, [cluster])
  await admin.query(`delete from ${members} where cluster = $1`, [cluster])
  const story = await storyOf(admin, schema, cluster)
  expect(story.slice(0, 4)).toEqual([
    'joined registered',
    'joined registered',
    'updated data',
    'updated data',
  ])
  expect(story.slice(4, 6).toSorted()).toEqual(['joined registered', 'updated data'])
  expect(story.slice(6)).toEqual(['left removed', 'left removed', 'left removed'])
  await expectWholeLog(admin, schema, cluster)
})

test('promise 4: statements over several clusters are logged in each of them', async () => {
  const admin = await openAdmin()
  const clusters = Array.from({ length: 3 }, () => uniqueName())
  await admin.query(
    `insert into ${members} (id, cluster, data)
     select gen_random_uuid(), c, convert_to(n::text, 'UTF8') from generate_series(1, 50) n, unnest($1::text[]) c`,
    [clusters],
  )
  await admin.query(
    `update ${members} set data = data || 'x'::bytea where cluster = any ($1) and token % 2 = 0`,
    [clusters],
  )
  await admin.query(`delete from ${members} where cluster = any ($1) and token % 3 = 0`, [clusters])
  for (const cluster of clusters) {
    const events = await expectWholeLog(admin, schema, cluster)
    expect(events).toHaveLength(50 + 25 + 16)
  }
})

test('promise 4: what is rolled back leaves no trace and no gap', async () => {
  const admin = await openAdmin()
  const cluster = uniqueName()
  await typeMembers(admin, schema, cluster, ['kept'])
  await admin.query('begin')
  await typeMembers(admin, schema, cluster, ['undone'])
  await register(admin, cluster, await newIds(admin, 3))
  await admin.query('savepoint half_way')
  await admin.query(`delete from ${members} where cluster = $1`, [cluster])
  await admin.query('rollback to savepoint half_way')
  await admin.query('rollback')
  await typeMembers(admin, schema, cluster, ['kept, too'])
  expect(await expectWholeLog(admin, schema, cluster)).toHaveLength(2)
})

test('promise 4: what would tear the log from the table is refused', async () => {
  const admin = await openAdmin()
  const cluster = uniqueName()
  const [id = ''] = await typeMembers(admin, schema, cluster, ['here'])
  for (const statement of [
    `truncate ${members} cascade`,
    `update ${members} set id = gen_random_uuid() where id = '${id}'`,
    `update ${members} set cluster = 'elsewhere' where id = '${id}'`,
    `update ${members} set token = token + 1 where id = '${id}'`,
    `insert into ${members} (id, cluster, token) values (gen_random_uuid(), '${cluster}', 99)`,
  ]) {
    await expect(admin.query(statement), statement).rejects.toMatchObject({ code: '23000' })
  }
  expect(await expectWholeLog(admin, schema, cluster)).toHaveLength(1)
})

test('promise 4: under any concurrency of functions and hand-typed statements the log has no gap at any moment', async () => {
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32))
  const hint = `(SEED=${seed})`
  const admin = await openAdmin()
  const clusters = Array.from({ length: 3 }, () => uniqueName())
  const ids = await newIds(admin, 12)
  const clients = await Promise.all(Array.from({ length: 6 }, () => openAdmin()))
  let whole = true
  let running = true
  const watch = async (): Promise<void> => {
    while (running && whole) {
      for (const cluster of clusters) if (!(await seesNoGap(admin, schema, cluster))) whole = false
    }
  }
  const watching = watch()
  const act = async (client: AdminClient, chance: Chance): Promise<unknown> => {
    const cluster = chance.pick(clusters)
    const some = Array.from({ length: 1 + chance.below(4) }, () => chance.pick(ids))
    const own = await client.query<{ id: string; token: string }>(
      `select id, token from ${members} where id = any ($1) and cluster = $2`,
      [some, cluster],
    )
    const at = [cluster, own.rows.map(({ id }) => id), own.rows.map(({ token }) => token)]
    switch (chance.below(7)) {
      case 0:
      case 1:
        return register(client, cluster, [...new Set(some)])
      case 2:
        return client.query(`select ${schema}.set_data($1, $2, $3, $4)`, [
          ...at,
          own.rows.map(() => Buffer.from(String(chance.next()))),
        ])
      case 3:
        return client.query(`select ${schema}.deregister($1, $2, $3)`, at)
      case 4:
        return client.query(`update ${members} set data = $2 where id = any ($1)`, [
          some,
          Buffer.from('typed'),
        ])
      case 5:
        return client.query(`delete from ${members} where id = any ($1)`, [some])
      default:
        return client.query(
          `insert into ${members} (id, cluster) select i, c from unnest($1::uuid[]) i, unnest($2::text[]) c
           on conflict do nothing`,
          [some, clusters.toSorted(() => chance.next() - 0.5)],
        )
    }
  }
  const codes = new Set<unknown>()
  await Promise.all(
    clients.map(async (client, n) => {
      const chance = new Chance(seed + n)
      for (let i = 0; i < size(40, 15); i++) {
        // Some statements share a transaction, which holds the clusters for longer.
        const together = chance.below(4) === 0
        try {
          if (together) await client.query('begin')
          await act(client, chance)
          if (together) await act(client, chance)
          if (together) await client.query(chance.below(3) === 0 ? 'rollback' : 'commit')
        } catch (error) {
          codes.add((error as { code?: unknown }).code)
          if (together) await client.query('rollback')
        }
      }
    }),
  )
  running = false
  await watching
  // Duplicates of one attempt, and the deadlocks of transactions that lock as they please: try again.
  for (const code of codes) expect(['23505', '40P01', '55P03'], `${String(code)} ${hint}`).toContain(code)
  expect(whole, `at every moment the log ended where the cluster was ${hint}`).toBe(true)
  // Which of the statements change something, and where, is chance: a cluster may see none of it.
  let changes = 0
  for (const cluster of clusters) {
    changes += (await expectWholeLog(admin, schema, cluster, hint)).length
  }
  expect(changes, hint).toBeGreaterThan(0)
}, 60_000)

test('promise 4: of twenty attempts to register one id at once, one makes a registration that all find', async () => {
  const admin = await openAdmin()
  const cluster = uniqueName()
  const [id = ''] = await newIds(admin, 1)
  const clients = await Promise.all(Array.from({ length: 20 }, () => openAdmin()))
  const attempts = await Promise.allSettled(clients.map((client) => register(client, cluster, [id])))
  const { members: table } = await tableOf(admin, schema, cluster)
  expect(table).toHaveLength(1)
  for (const attempt of attempts) {
    if (attempt.status === 'rejected') expect(attempt.reason).toMatchObject({ code: '23505' })
    else for (const { token } of attempt.value) expect(Number(token)).toBe(table[0]?.token)
  }
  expect(await expectWholeLog(admin, schema, cluster)).toHaveLength(1)
})

test('promise 4: a retry finds its own registration, a late duplicate of an older attempt changes nothing', async () => {
  const admin = await openAdmin()
  const cluster = uniqueName()
  const [id = ''] = await newIds(admin, 1)
  const [first] = await register(admin, cluster, [id])
  expect(await register(admin, cluster, [id])).toEqual([first])
  const [second] = await register(admin, cluster, [id], [Number(first?.token)])
  expect(Number(second?.token)).toBeGreaterThan(Number(first?.token))
  expect(await register(admin, cluster, [id])).toEqual([second])
  expect(await storyOf(admin, schema, cluster)).toEqual([
    'joined registered',
    'left superseded',
    'joined registered',
  ])
  await expectWholeLog(admin, schema, cluster)
})

test('promise 4: an absurd floor is refused, a high one is a token that is higher still', async () => {
  const admin = await openAdmin()
  const cluster = uniqueName()
  const [id = '', other = ''] = await newIds(admin, 2)
  for (const floor of ['9007199254740991', '9223372036854775807', '1000000001']) {
    const refused = register(admin, cluster, [id], [floor as unknown as number])
    await expect(refused, floor).rejects.toMatchObject({ code: '22023' })
  }
  expect(await tableOf(admin, schema, cluster)).toEqual({ revision: 0, members: [] })
  const [registered] = await register(admin, cluster, [id], [1_000_000])
  expect(Number(registered?.token)).toBe(1_000_001)
  const [next] = await register(admin, cluster, [other])
  expect(Number(next?.token)).toBeGreaterThan(1_000_001)
  await expectWholeLog(admin, schema, cluster)
})

test('promise 14: an id that another cluster holds is refused, and its holder keeps it', async () => {
  const admin = await openAdmin()
  const [mine, theirs] = [uniqueName(), uniqueName()]
  const cluster = openCluster({ schema, name: mine })
  const membership = cluster.createMembership()
  await admin.query(`insert into ${members} (id, cluster) values ($1, $2)`, [membership.id, theirs])
  await expect(membership.register()).rejects.toBeInstanceOf(MembershipLostError)
  const bystander = await joined(cluster)
  expect((await cluster.getMembers()).map(({ id }) => id)).toEqual([bystander.id])
  expect((await tableOf(admin, schema, theirs)).members).toMatchObject([{ id: membership.id }])
  // It is free again when the other has left.
  await admin.query(`delete from ${members} where cluster = $1`, [theirs])
  await membership.register()
  await expectWholeLog(admin, schema, mine)
})

test('promise 4: a write whose reply was lost happens once', async () => {
  const admin = await openAdmin()
  const proxy = await openProxy()
  const name = uniqueName()
  const cluster = openCluster({ schema, name, connection: proxy.throughIt, listenConnection: false })
  const membership = cluster.createMembership({ data: 'one' })
  const losing = (what: string): Promise<void> =>
    proxy.cutOnce({
      direction: 'toClient',
      afterBytes: 0,
      when: sends(what),
    })
  const steps = [
    ['register', () => membership.register()],
    ['set_data', () => membership.setData('two')],
    ['deregister', () => membership.deregister()],
    ['register', () => membership.register()],
  ] as const
  for (const [what, step] of steps) {
    const lost = losing(what)
    await step()
    await lost
    expect(
      cluster.snapshot?.members.map(({ id }) => id),
      what,
    ).toEqual(what === 'deregister' ? [] : [membership.id])
  }
  expect(await storyOf(admin, schema, name)).toEqual([
    'joined registered',
    'updated data',
    'left deregistered',
    'joined registered',
  ])
  await expectWholeLog(admin, schema, name)
})

test('promise 4: an abandoned register leaves nobody behind, whether or not it had happened', async () => {
  const admin = await openAdmin()
  const proxy = await openProxy()
  const name = uniqueName()
  const cluster = openCluster({ schema, name, connection: proxy.throughIt, listenConnection: false })
  await cluster.getMembers()
  const lost = proxy.cutOnce({
    direction: 'toClient',
    afterBytes: 0,
    when: ({ sent }) => {
      if (!sends('register')({ sent })) return false
      // From here on nobody can say whether it happened.
      proxy.freeze({ direction: 'toClient' })
      return true
    },
  })
  const controller = new AbortController()
  const registered = cluster.createMembership().register({ signal: controller.signal })
  await until(async () => (await tableOf(admin, schema, name)).members.length === 1, {
    message: 'it happened',
  })
  controller.abort()
  await expect(registered).rejects.toMatchObject({ code: 'ABORTED' })
  proxy.thaw()
  await lost
  await until(async () => (await tableOf(admin, schema, name)).members.length === 0, {
    withinMs: 20_000,
    message: 'it is undone',
  })
  const events = await eventsOf(admin, schema, name)
  expect(events.map(({ reason }) => reason)).toEqual(['registered', 'deregistered'])
}, 40_000)
