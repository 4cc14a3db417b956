/** How each fault is carried out, and noted among the troubles. */
import pg from 'pg'
import { sends } from '../support/wire.js'
import { PUT_BACK } from './log.js'
import { BY_HAND } from './model.js'
import { PASSWORD, passwordsOf, permissionOf } from './roles.js'
import type { Doing, Fault } from './steps.js'
import { AWAY } from './troubles.js'
import type { World } from './world.js'

type Faults = { [K in Fault['do']]: (world: World, step: Doing<Fault, K>) => unknown }

// Nobody is taken for crashed on evidence from before it was back: it severs nobody.
const SERVER_AWAY = { what: AWAY, place: 'everywhere', severs: false } as const
/** Who was cut off meanwhile cannot come back: nobody's connections may be there. */
const REFUSED = { place: 'everywhere', severs: true, refuses: true } as const

/** By an id, as a literal. */
const REPAIRS = {
  delete: (id: string) => [`delete from pgmembership.members where id = ${id}`],
  change: (id: string) => [`update pgmembership.members set data = '${BY_HAND}' where id = ${id}`],
  'put back': (id: string) => [
    `create temporary table saved on commit drop as select * from pgmembership.members where id = ${id}`,
    `delete from pgmembership.members where id = ${id}`,
    `insert into pgmembership.members (id, cluster, data, ttl, crash_grace)
     select id, cluster, '${PUT_BACK}', ttl, crash_grace from saved`,
    // More than one read of a socket: some of its announcements come later than others.
    `do $$ begin
       for n in 1 .. 60 loop
         update pgmembership.members
         set data = convert_to('${PUT_BACK} ' || n || repeat('.', 2000), 'UTF8') where id = ${id};
       end loop;
     end $$`,
  ],
}

/** An announcement that fits every snapshot of the present: the oldest member has left. */
const FORGED = `
  with head as (
    select c.*, m.id, m.token from pgmembership.clusters c join pgmembership.members m on m.cluster = c.name
    where c.name = $1 order by m.token limit 1
  ), forged as (
    select s.name as channel, s.inner_pad, s.outer_pad, convert_to(
      concat_ws(' ', h.channel, extract(epoch from pg_postmaster_start_time()) + seconds, h.revision, h.stamp,
        h.revision + 1, gen_random_uuid(), h.revision + 1, h.revision + 1)
      || chr(10) || 'l ' || h.id || ' ' || h.token || ' 0 ', 'UTF8') as body, seconds
    from head h join pgmembership.members_channels s on s.cluster = h.name, (values (0), (1)) server (seconds)
  )`
const GARBAGE = [
  `select pg_notify(channel, repeat('garbage ', n)) from pgmembership.clusters, generate_series(1, 20) n
   where name = $1`,
  // Without the key; and from a server that is another one, but knows the key.
  `${FORGED}
   select pg_notify(channel, encode(sha256(body), 'hex') || chr(10) || convert_from(body, 'UTF8'))
   from forged where seconds = 0`,
  `${FORGED}
   select pg_notify(channel,
     encode(sha256(outer_pad || sha256(inner_pad || body)), 'hex') || chr(10) || convert_from(body, 'UTF8'))
   from forged where seconds = 1`,
]

/** Events younger than this may be on their way into the log. */
const TRIMMED_AGE = '10 seconds'

const FAULTS: Faults = {
  kill: (world, { process }) => {
    const { model, process: worker } = world.of(process)
    model.end()
    return worker.kill()
  },
  stop: (world, { process }) => {
    const { model, process: worker } = world.of(process)
    world.troubles.begin({ what: 'stopped', place: model.place, severs: false })
    worker.signal('SIGSTOP')
  },
  continue: (world, { process }) => {
    const { model, process: worker } = world.of(process)
    worker.signal('SIGCONT')
    world.troubles.end({ what: 'stopped', place: model.place })
  },
  block: (world, { process, forMs }) => {
    const { place } = world.of(process).model
    world.troubles.begin({ what: 'blocked', place, severs: false })
    world.ask(process, 'block', { forMs }, () => world.troubles.end({ what: 'blocked', place }))
  },
  // Whoever waits in vain hangs up in the end: a frozen network may sever, too.
  freeze: (world, { places, direction }) => {
    for (const place of places) {
      world.troubles.begin({ what: 'frozen', place, severs: true })
      world.proxies[place]?.freeze({ direction })
    }
  },
  thaw: (world, { places }) => {
    for (const place of places) {
      world.proxies[place]?.thaw()
      world.troubles.end({ what: 'frozen', place })
    }
  },
  cut: (world, { places }) => {
    for (const place of places) world.troubles.begin({ what: 'cut off', place, severs: true })
    return Promise.all(world.in(places).map((proxy) => proxy.cut()))
  },
  restore: async (world, { places }) => {
    await Promise.all(world.in(places).map((proxy) => proxy.restore()))
    for (const place of places) world.troubles.end({ what: 'cut off', place })
  },
  reset: (world, { places }) => {
    for (const place of places) {
      sever(world, place, 'reset')
      world.proxies[place]?.reset()
    }
  },
  slow: (world, { places, delayMs }) => {
    for (const place of places) {
      const slow = { what: 'slow', place, severs: true }
      if (delayMs > 0) world.troubles.begin(slow)
      world.proxies[place]?.delay(delayMs)
      if (delayMs === 0) world.troubles.end(slow)
    }
  },
  'lose answer': (world, { place, of }) => {
    const lost = world.proxies[place]?.cutOnce({ direction: 'toClient', afterBytes: 0, when: sends(of) })
    void lost?.then(() => {
      sever(world, place, `an answer to ${of} was lost`)
      world.history.note(`an answer to ${of} is lost in place ${place}`)
    })
  },
  terminate: async (world, { places }) => {
    const names = places.flatMap((place) => {
      const inhabitant = world.living.find(({ model }) => model.place === place)
      if (inhabitant === undefined) return []
      sever(world, place, 'terminated')
      return [`pg-membership % ${inhabitant.process.pid} %`]
    })
    await attempt(
      world,
      `select pg_terminate_backend(pid) from pg_stat_activity where application_name like any ($1)`,
      [names],
    )
  },
  // One backend that is killed takes the whole server with it, which restarts by itself.
  'crash server': async (world) => {
    const admin = await world.admin()
    const { rows } = await admin.query<{ pid: number }>('select pg_backend_pid() as pid')
    world.troubles.begin(SERVER_AWAY)
    process.kill(rows[0]?.pid ?? NaN, 'SIGKILL')
    await world.started()
    world.troubles.end(SERVER_AWAY)
  },
  'stop server': async (world, { mode }) => {
    world.troubles.begin(SERVER_AWAY)
    await world.server.stop(mode)
  },
  'start server': async (world) => {
    if (world.server.pid === undefined) await world.server.start()
    world.troubles.end(SERVER_AWAY)
  },
  'lock member': (world, step) => {
    const { id } = world.membership(step)
    if (id === undefined) return
    lock(
      world,
      [`select from pgmembership.members where id = ${pg.escapeLiteral(id)} for update`],
      step.forMs,
    )
  },
  'lock cluster': (world, { cluster, forMs }) =>
    lock(world, [`select from pgmembership.clusters where name = '${cluster}' for update`], forMs),
  remove: (world, step) => {
    const { id } = world.membership(step)
    if (id === undefined) return
    world.removed.add(id)
    return attempt(world, 'delete from pgmembership.members where id = $1', [id])
  },
  repair: (world, step) => {
    const { id } = world.membership(step)
    if (id === undefined) return
    if (step.how !== 'change') world.removed.add(id)
    lock(world, REPAIRS[step.how](pg.escapeLiteral(id)), step.forMs)
  },
  'type in': (world, { cluster, id, forMs }) => {
    world.typed.add(id)
    const row = `'${id}', '${cluster}', '${BY_HAND}', '1.5 s'`
    lock(world, [`insert into pgmembership.members (id, cluster, data, ttl) values (${row})`], forMs)
  },
  delay: (world, { place, of, forMs }) => {
    void world.proxies[place]
      ?.holdOnce(sends(of), forMs)
      .then(() => world.history.note(`a call of ${of} is let go in place ${place}`))
  },
  revoke: (world, { what }) => {
    world.troubles.begin({ what: `no ${what}`, ...REFUSED })
    return attempt(world, permissionOf('revoke', what), [])
  },
  grant: async (world, { what }) => {
    if (await attempt(world, permissionOf('grant', what), []))
      world.troubles.end({ what: `no ${what}`, ...REFUSED })
  },
  'rotate password': (world) => {
    world.troubles.begin({ what: 'another password', ...REFUSED })
    return attempt(world, passwordsOf('another'), [])
  },
  'restore password': async (world) => {
    if (await attempt(world, passwordsOf(PASSWORD), []))
      world.troubles.end({ what: 'another password', ...REFUSED })
  },
  garbage: async (world, { cluster }) => {
    for (const text of GARBAGE) await attempt(world, text, [cluster])
  },
  trim: async (world) => {
    await world.follow()
    world.wasTrimmed = true
    await attempt(world, 'select pgmembership.trim_events($1)', [TRIMMED_AGE])
  },
}

export async function inflict(world: World, step: Fault): Promise<void> {
  const fault = FAULTS[step.do] as (world: World, step: Fault) => unknown
  await fault(world, step)
}

function sever(world: World, place: number, what: string): void {
  const nowMs = Date.now()
  world.troubles.add({ what, place, severs: true, fromMs: nowMs, untilMs: nowMs })
}

/** The server may go away at any time, and others may hold what this needs. Whether it was done. */
async function attempt(world: World, text: string, values: unknown[]): Promise<boolean> {
  try {
    const admin = await world.admin()
    await admin.query(`set lock_timeout = '1s'`)
    await admin.query(text, values)
    return true
  } catch (error) {
    inVain(world, error)
    return false
  }
}

/** But not because of what is wrong with this test's own SQL. */
function inVain(world: World, error: unknown): void {
  if ((error as { code?: string }).code?.startsWith('42') === true) throw error
  world.history.note(`in vain: ${String(error)}`)
}

/** By a transaction of its own, which is not waited for. */
function lock(world: World, texts: readonly string[], forMs: number): void {
  const held = (async () => {
    await using client = await world.connect()
    await client.query('begin')
    await client.query(`set local lock_timeout = '1s'`)
    for (const text of texts) await client.query(text)
    await client.query('select pg_sleep($1)', [forMs / 1_000])
    await client.query('commit')
  })()
    .catch((error: unknown) => inVain(world, error))
    .finally(() => world.locks.delete(held))
  world.locks.add(held)
}
