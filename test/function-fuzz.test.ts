/**
 * Calls every function that a role may execute, as that role, with arguments that nobody would send, among
 * legal traffic. Then it checks that this had no effect that the role may not cause. The last test lets four roles do
 * what they like in transactions that stay open, around members that live and die. fast-check prints the
 * seed of a failure: FUZZ_SEED=… repeats it. FUZZ_SECONDS=… looks for longer; `npm run test:fuzz` does.
 */
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { catalogOf } from './support/catalog.js'
import { type AdminClient, adminClient, uniqueName } from './support/database.js'
import { storyOf } from './support/event-log.js'
import { Attacker, attacks, type Step } from './support/fuzz-attack.js'
import type { Argument, Routine, Value } from './support/fuzz-calls.js'
import { APPLICATION, type LivingHands, LivingWorld } from './support/fuzz-living.js'
import {
  OtherSession,
  type OthersStep,
  othersSteps,
  type Registered,
  SESSIONS,
} from './support/fuzz-others.js'
import { checkTokens, type Hands, SESSION, World } from './support/fuzz-world.js'
import { joined, openCluster } from './support/opened.js'
import { type Role, type Roles, startRoles } from './support/roles.js'
import { size } from './support/size.js'

const SECONDS = Number(process.env.FUZZ_SECONDS ?? size(20, 1))
const OTHERS_SECONDS = Number(process.env.FUZZ_SECONDS ?? size(60, 8))
const SEED = process.env.FUZZ_SEED

let granted: Roles
let hands: Hands
const clients: AdminClient[] = []

beforeAll(async () => {
  granted = await startRoles()
  const [admin, locker, member] = await Promise.all([adminClient(), adminClient(), granted.as('member')])
  clients.push(admin, locker, member)
  await member.query(`set application_name = '${SESSION}'`)
  hands = { admin, locker, member, schema: granted.schema }
})
afterAll(() => Promise.all(clients.map((client) => client.end())))

async function routinesOf(role: Role): Promise<Routine[]> {
  const { rows } = await hands.admin.query<Routine>(
    `select proname as name, (
       select json_agg(json_build_object('name', proargnames[n], 'type', format_type(type, null)) order by n)
       from unnest(proargtypes) with ordinality parameter (type, n)
     ) as parameters
     from pg_proc
     where pronamespace = $1::text::regnamespace and has_function_privilege($2, oid, 'execute') and pronargs > 0
     order by oid::regprocedure::text`,
    [granted.schema, granted.nameOf[role]],
  )
  return rows
}

/** Definitions, privileges, and what the roles are: all that no call may change. */
async function constitution(): Promise<string[]> {
  const { rows } = await hands.admin.query<{ line: string }>(
    `select to_json(r)::text as line from pg_roles r where rolname = any ($1)
     union all select to_json(m)::text from pg_auth_members m
     where member in (select oid from pg_roles where rolname = any ($1))
     union all select format('%s %s', oid::regclass, relowner::regrole) from pg_class where relnamespace = 'public'::regnamespace
     order by 1`,
    [Object.values(granted.nameOf)],
  )
  return [...(await catalogOf(hands.admin, granted.schema)), ...rows.map(({ line }) => line)]
}

/** Settings that functions change for themselves. */
async function settingsOf(client: AdminClient): Promise<string> {
  const names = ['lock_timeout', 'synchronous_commit', 'idle_in_transaction_session_timeout']
  const all = [...names, 'client_connection_check_interval', 'statement_timeout', 'session_authorization']
  const { rows } = await client.query<{ settings: string }>(
    `select string_agg(current_setting(name), ' ') as settings from unnest($1::text[]) name`,
    [all],
  )
  return rows[0]?.settings ?? ''
}

/** What once broke a promise, tried first. */
function known(routines: readonly Routine[]): Step[][] {
  const call = (name: string, ...args: Argument[]): Step[] =>
    routines
      .filter((routine) => routine.name === name)
      .map((routine) => ({ call: routine, args: args.slice(0, routine.parameters.length) }))
  const plain = (...list: Value[]): Argument => ({ list, shape: 'plain' })
  const sweep = call('sweep', { cluster: 0 })
  const [id, token]: Value[] = [
    { member: 0, as: 'id' },
    { member: 0, as: 'token' },
  ]
  const newcomer = [{ cluster: 0 }, plain({ stranger: 0 }), plain('\\x'), plain(null)]
  const floors = call('register', ...newcomer, '15 s', null, '', '0', null)
  // So many arguments are seldom all good by chance.
  const good = call(
    'register',
    ...[{ cluster: 0 }, plain({ stranger: 0 }), plain('\\x'), plain('0'), '15 s', null, 'nobody', '0', null],
  )
  const member0 = [id ?? null, token ?? null] as const
  const own4 = [{ cluster: 0 }, '', ...member0] as const
  const batch = { stranger: 0 }
  const leaving = call('deregister', { cluster: 0 }, plain(id ?? null), plain(token ?? null))
  const own = (steps: Step[]): Step[] => [{ begin: 'read committed' }, { queue: true }, ...steps]
  return [
    [{ silence: 0 }, ...own(sweep), { end: 'commit' }],
    [...own(leaving), { end: 'commit' }],
    floors,
    good,
    [
      ...call('claim', ...own4, plain('a')),
      ...call('fence_claims', ...own4, plain('a')),
      ...call('release', ...own4, plain('a')),
    ],
    [
      ...call('stock_nonces', { cluster: 0 }, '', plain('a', 'b')),
      ...call('stock_nonces', { cluster: 0 }, 'a', plain('a', 'b')),
      ...call('take_nonces', { cluster: 0 }, 'a', ...member0, batch, plain(), '2'),
      ...call('use_nonce', { cluster: 0 }, 'a', ...member0, batch, 'a'),
      ...call('return_nonces', { cluster: 0 }, 'a', ...member0, plain('b'), plain(batch), plain()),
    ],
    call('evict', { cluster: 0 }, id ?? null, 'why', '1 s'),
    [...call('drain', { cluster: 0 }, id ?? null, 'why', null), { heartbeat: 0, locked: false }],
    [
      { silence: 0, almost: true },
      { begin: 'repeatable read' },
      { heartbeat: 0, locked: true },
      { awaitEndOfSilence: 0 },
      ...sweep,
      { end: 'commit' },
    ],
  ]
}

async function run(role: Role, steps: readonly Step[]): Promise<void> {
  const world = await World.begin(hands)
  await using client = await granted.as(role)
  await client.query(`set statement_timeout = '20s'`)
  const settings = await settingsOf(client)
  const attacker = new Attacker(client, granted.schema, world, granted.nameOf[role])
  for (const step of steps) await attacker.take(step)
  if (await attacker.leave()) {
    expect(await settingsOf(client), 'settings are as before').toBe(settings)
    // What a serializable transaction has read (SIReadLock) is remembered while others go on: it holds nobody up.
    const { rows } = await client.query(
      `select mode from pg_locks
       where pid = pg_backend_pid() and locktype not in ('virtualxid', 'relation') and mode <> 'SIReadLock'`,
    )
    expect(rows, 'nothing stays locked').toEqual([])
  }
  await world.check()
}

test.each(['reader', 'member', 'operator'] as const)(
  'promise 15: whatever a %s calls, with whatever arguments, no promise of the others is broken',
  async (role) => {
    const before = await constitution()
    const routines = await routinesOf(role)
    await fc.assert(
      fc.asyncProperty(attacks(routines), (steps) => run(role, steps)),
      {
        numRuns: 1_000_000,
        examples: known(routines).map((steps): [Step[]] => [steps]),
        plugins: [fc.interruptAfterTimeLimit(SECONDS * 1_000)],
        ...(SEED === undefined ? {} : { seed: Number(SEED) }),
      },
    )
    await checkTokens(hands.admin, granted.schema, '')
    expect(await constitution(), 'definitions and privileges are as before').toEqual(before)
    if (SECONDS >= 30) {
      const unreached = routines.filter(({ name }) => !Attacker.reached.has(name))
      expect(unreached, 'each was called so that it answered').toEqual([])
    }
  },
  60_000 + SECONDS * 2_000,
)

/** What once broke a promise, tried first. */
const KNOWN_OTHERS: readonly OthersStep[][] = [
  // The row is held for longer than the ttl, while heartbeats come: who leads can act.
  [{ longHeld: 0, session: 0, mode: 'share' }],
  // A sweep that is not over has deleted the heartbeat that was kept, and the row is locked again.
  [
    { longHeld: 0, session: 0, mode: 'update' },
    { session: 0, deed: { end: 'commit' } },
    { session: 2, deed: { begin: 'read committed' } },
    { session: 2, deed: { call: 'sweep', of: { living: 0 } } },
    { session: 0, deed: { begin: 'read committed' } },
    { session: 0, deed: { lockRow: 'members', of: { living: 0 }, mode: 'update' } },
  ],
  // The application refuses one removal of a batch, at the commit.
  [
    { session: 0, deed: { app: 'insert', table: 'work_deferred', of: { dying: 1 } } },
    { session: 3, deed: { call: 'drain', of: { dying: 1 } } },
  ],
  // Sweeping goes on, though a reader sweeps late in his transactions.
  [{ silence: 0 }, { lateSweeps: true }],
]

test(
  'promises 5 to 8 and 16: whatever transactions of others hold, change and wait for, the living stay and can act, and the dead go',
  async () => {
    const { admin, member, schema } = hands
    const app = uniqueName('app').replaceAll('-', '_')
    await admin.query(APPLICATION(app, granted))
    const reader = await granted.as('reader')
    const sessions = SESSIONS.map((role) => new OtherSession(granted, role, admin, app))
    const all: LivingHands = { granted, admin, member, reader, sessions, app }
    const name = `others ${app}`
    const ended: unknown[] = []
    const processes: Registered[] = []
    try {
      for (let n = 0; n < 2; n += 1) {
        const connection = granted.urlOf('member')
        const cluster = openCluster({ schema, name, connection, ttlMs: 15_000, heartbeatMs: 200 })
        const membership = await joined(cluster)
        const { lease } = membership
        lease?.signal.addEventListener('abort', () => ended.push(lease.signal.reason))
        processes.push({ id: membership.id, cluster: name, token: lease?.token ?? 0 })
      }
      await fc.assert(
        fc.asyncProperty(othersSteps, async (steps) => (await LivingWorld.begin(all, processes)).run(steps)),
        {
          numRuns: 1_000_000,
          examples: KNOWN_OTHERS.map((steps): [OthersStep[]] => [steps]),
          plugins: [fc.interruptAfterTimeLimit(OTHERS_SECONDS * 1_000)],
          ...(SEED === undefined ? {} : { seed: Number(SEED) }),
        },
      )
      expect(ended, 'promise 7: no lease of a process has ended').toEqual([])
      const story = (await storyOf(admin, schema, name)).filter((event) => event !== 'updated data')
      expect(story, 'promise 7: nor a registration').toEqual(['joined registered', 'joined registered'])
    } finally {
      await Promise.all([...sessions.map((session) => session.close()), reader.end()])
      await admin.query(`drop schema ${app} cascade`)
    }
  },
  60_000 + OTHERS_SECONDS * 2_000,
)
